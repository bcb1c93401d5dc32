//! What pjdfstest says of each case.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Passed,
    Failed,
    Skipped,
}

impl Status {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "ok" => Some(Self::Passed),
            "FAILED" => Some(Self::Failed),
            "skipped" => Some(Self::Skipped),
            _ => None,
        }
    }
}

/// One case.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Case {
    pub(super) status: Status,
    /// Why it failed or was skipped.
    pub(super) says: String,
}

/// Every case that was run, by name.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Cases(BTreeMap<String, Case>);

impl Cases {
    /// Reads the suite's output: a line of name and status for each case, then what it says of it.
    ///
    /// # Errors
    /// If the output does not end with the sum of just these cases.
    pub(super) fn parse(output: &str) -> Result<Self> {
        let (mut cases, mut name) = (BTreeMap::<String, Case>::new(), String::new());
        let mut sum = None;
        for line in output.lines() {
            if let Some((case, status)) = case_line(line) {
                name = case.to_owned();
                cases.insert(name.clone(), Case { status, says: String::new() });
            } else if line.starts_with("Summary: ") {
                sum = Some(line);
            } else if let Some(case) = cases.get_mut(&name) {
                // The words of a failed assertion go over several lines.
                case.says += line.trim_end();
                case.says += "\n";
            }
        }
        for case in cases.values_mut() {
            case.says = case.says.trim().to_owned();
        }
        let cases = Self(cases);
        let sum = sum.context("it did not come to its end")?;
        for (status, word) in
            [(Status::Passed, "passed"), (Status::Failed, "failed"), (Status::Skipped, "skipped")]
        {
            let counted = format!("{} {word}", cases.count(status));
            let holds = sum.split([':', ',']).any(|part| part.trim() == counted);
            ensure!(holds, "{counted} were read, but it says: {sum}");
        }
        ensure!(!cases.0.is_empty(), "there is no such case");
        Ok(cases)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Case)> {
        self.0.iter()
    }

    pub(super) fn failed(&self) -> impl Iterator<Item = (&String, &Case)> {
        self.iter().filter(|(_, case)| case.status == Status::Failed)
    }

    pub(super) fn count(&self, status: Status) -> usize {
        self.0.values().filter(|case| case.status == status).count()
    }

    /// Takes what another run says of cases instead.
    pub(super) fn replace(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn is_skipped(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|case| case.status == Status::Skipped)
    }

    /// The cases that pass there and not here. One that is skipped here has not passed.
    pub(super) fn worse_than(&self, other: &Self) -> BTreeSet<String> {
        let passes = |cases: &Self, name| {
            cases.0.get(name).is_some_and(|case| case.status == Status::Passed)
        };
        let names = other.0.keys().filter(|name| passes(other, *name) && !passes(self, *name));
        names.cloned().collect()
    }
}

/// A case's name and how it ended, if that is what the line says.
fn case_line(line: &str) -> Option<(&str, Status)> {
    let (name, status) = line.split_once(' ')?;
    let status = Status::parse(status.trim())?;
    (name.contains("::") && !name.starts_with(char::is_whitespace)).then_some((name, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
chmod::a::regular                                       ok
chmod::b                                                FAILED
\tassertion `left == right` failed
  left: 1
 right: 2
erofs::c                                                skipped
\tRemounts (allow_remount) are not allowed

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
";

    fn parse(output: &str) -> Cases {
        Cases::parse(output).expect("well-formed output")
    }

    #[test]
    fn cases_and_their_reasons_are_read() {
        let cases = parse(OUTPUT);
        let failed: Vec<_> = cases.failed().collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0, "chmod::b");
        assert_eq!(failed[0].1.says, "assertion `left == right` failed\n  left: 1\n right: 2");
        assert_eq!(cases.count(Status::Passed), 1);
    }

    #[test]
    fn output_that_is_cut_off_or_does_not_add_up_is_refused() {
        let cut = OUTPUT.split("Summary").next().expect("what is before it");
        assert!(Cases::parse(cut).is_err());
        assert!(Cases::parse(&OUTPUT.replace("1 failed", "2 failed")).is_err());
        assert!(Cases::parse(&OUTPUT.replace("1 skipped", "11 skipped")).is_err());
        let none = "Summary: 0 failed, 0 skipped, 0 passed, 0 expected failures, 0 total";
        assert!(Cases::parse(none).is_err());
    }

    #[test]
    fn what_passes_elsewhere_and_fails_or_is_skipped_here_is_worse() {
        let ext4 =
            parse("a::x ok\na::y ok\na::z FAILED\nSummary: 1 failed, 0 skipped, 2 passed, 3 total");
        let here = parse(
            "a::x ok\na::y skipped\na::z FAILED\nSummary: 1 failed, 1 skipped, 1 passed, 3 total",
        );
        assert_eq!(here.worse_than(&ext4), BTreeSet::from(["a::y".to_owned()]));
        assert!(ext4.worse_than(&here).is_empty());
    }
}
