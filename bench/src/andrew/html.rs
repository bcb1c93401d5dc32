//! The report as one HTML page that needs nothing else: the table, the chart, the settings.

use anyhow::{Result, anyhow};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::prelude::*;
use serde_json::Value;

use super::report::{Report, rows};
use super::table::{self, Sheet};

/// Width of the chart in CSS pixels; height of a panel, and of each bar in it.
const CHART_WIDTH: u32 = 1200;
const PANEL_HEIGHT: u32 = 90;
const BAR_HEIGHT: u32 = 20;
/// Panels of the chart: three rows of two hold the five phases and the total.
const PANELS: (usize, usize) = (3, 2);

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;\
    padding:0 1rem}table{border-collapse:collapse;display:block;overflow-x:auto}\
    td,th{padding:.3rem .8rem;border-bottom:1px solid #ccc;text-align:right}\
    td:first-child,th:first-child{text-align:left}\
    svg{max-width:100%;height:auto}dt{font-weight:bold}dd{margin:0 0 .4rem 1rem}";

/// The page.
///
/// # Errors
/// If the chart cannot be drawn.
pub(crate) fn render(reports: &[Report]) -> Result<String> {
    let sections = reports.iter().map(section).collect::<Result<Vec<_>>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { "bftfs: Andrew benchmark" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Andrew benchmark" }
                p {
                    "Median seconds per phase; in brackets the share of BFS-nr, the unreplicated "
                    "server, or of the first column where that was not measured, unless a title "
                    "says otherwise."
                }
                @for section in sections { (section) }
            }
        }
    };
    Ok(page.into_string())
}

fn section(report: &Report) -> Result<Markup> {
    let chart = chart(report)?;
    Ok(html! {
        @if let Some(copies) = report.settings.get("copies") {
            h2 { "Copies of the tree: " (copies) }
        }
        @for sheet in table::sheets(report) {
            @if !sheet.title.is_empty() { h3 { (sheet.title) } }
            (table(&sheet))
        }
        @for line in table::missing(report) { p { (line) } }
        (PreEscaped(chart))
        h3 { "How it was measured" }
        (settings(report))
    })
}

fn table(sheet: &Sheet) -> Markup {
    html! {
        table {
            thead { tr { @for title in &sheet.header { th { (title) } } } }
            tbody {
                @for line in &sheet.lines {
                    tr { @for cell in line { td { (cell) } } }
                }
            }
        }
    }
}

fn settings(report: &Report) -> Markup {
    html! {
        dl {
            @for (name, value) in &report.settings {
                dt { (name) }
                dd { (setting(value)) }
            }
            dt { "every run left" }
            dd {
                (report.result.files) " files and " (report.result.dirs)
                " directories per copy, digest " code { (report.result.digest) }
            }
        }
    }
}

fn setting(value: &Value) -> Markup {
    match value {
        Value::String(text) => html! { (text) },
        Value::Object(parts) => html! {
            @for (name, part) in parts { (name) ": " (setting(part)) br; }
        },
        value => html! { (value.to_string()) },
    }
}

/// A panel of bars per row of the table, each with a scale of its own, as SVG.
fn chart(report: &Report) -> Result<String> {
    let mut svg = String::new();
    let bars = u32::try_from(report.order.len())?;
    let size = (CHART_WIDTH, 3 * (PANEL_HEIGHT + bars * BAR_HEIGHT));
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = root.fill(&WHITE).map_err(|e| anyhow!("cannot draw the chart: {e}"));
        drawn?;
        for (row, area) in rows().zip(root.split_evenly(PANELS)) {
            panel(report, row, &area)
                .map_err(|e| anyhow!("cannot draw the chart of {row}: {e}"))?;
        }
        root.present().map_err(|e| anyhow!("cannot draw the chart: {e}"))?;
    }
    // The XML declaration of a file has no place inside a page.
    Ok(svg.find("<svg").map_or(String::new(), |start| svg[start..].to_owned()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel(
    report: &Report,
    row: &str,
    area: &Area<'_>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut bars: Vec<(&str, f64)> = report
        .columns()
        .filter_map(|(name, column)| Some((name, *column.seconds.get(row)?)))
        .collect();
    // The axis grows upwards; the table's first column belongs to the top.
    bars.reverse();
    let count = i32::try_from(bars.len())?;
    let top = bars.iter().map(|(_, seconds)| *seconds).fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(row, ("sans-serif", 18))
        .margin(10)
        .set_label_area_size(LabelAreaPosition::Left, 190)
        .set_label_area_size(LabelAreaPosition::Bottom, 30)
        .build_cartesian_2d(0.0..top * 1.15, (0..count - 1).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(6)
        .x_label_formatter(&|seconds| format!("{seconds} s"))
        .y_labels(bars.len())
        .y_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(index) => usize::try_from(*index)
                .ok()
                .and_then(|index| bars.get(index))
                .map_or(String::new(), |(name, _)| (*name).to_owned()),
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        })
        .draw()?;
    chart.draw_series((0..count).zip(&bars).map(|(index, (_, seconds))| {
        let color = Palette99::pick(usize::try_from(index).unwrap_or_default()).mix(0.8);
        let (from, to) = (SegmentValue::Exact(index), SegmentValue::Exact(index + 1));
        let mut bar = Rectangle::new([(0.0, from), (*seconds, to)], color.filled());
        bar.set_margin(3, 3, 0, 0);
        bar
    }))?;
    Ok(())
}
