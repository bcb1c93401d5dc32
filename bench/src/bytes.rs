//! Numbers of bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// What people call multiples of a byte, the largest first.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes: `4GiB` on the command line, 4294967296 in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "" => Some(1),
            unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
        };
        let number: Option<u64> = number.parse().ok();
        let bytes = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| "expected a number of bytes, as in 512MiB or 4GiB".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.0 as f64))
    }
}

/// So many bytes, for people: in the largest unit of which there is one.
pub(crate) fn show(bytes: f64) -> String {
    let fits = UNITS.iter().find(|(_, factor)| bytes >= *factor as f64);
    let (unit, factor) = fits.unwrap_or(&UNITS[UNITS.len() - 1]);
    let number = bytes / *factor as f64;
    let digits = usize::from(number.fract() != 0.0);
    format!("{number:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, wanted) in [("0", 0), ("17", 17), ("17B", 17), ("4KiB", 4096), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse(), Ok(Bytes(wanted)), "{text}");
        }
        for text in ["", "GiB", "4GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_people_read_is_short() {
        let cases =
            [(0, "0 B"), (17, "17 B"), (4096, "4 KiB"), (1536, "1.5 KiB"), (1 << 30, "1 GiB")];
        for (bytes, wanted) in cases {
            assert_eq!(Bytes(bytes).to_string(), wanted);
        }
    }
}
