//! How settings are written: times as `30s`, sizes as `64MiB`, rates as `2Mbit/s`, and a fault as the key, what it is and what it takes.

use std::{
    fmt::{self, Display, Formatter},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is wrong with a setting. Where a section is checked it begins with the key, as the section knows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// Checks that the value of a key is within bounds.
pub fn within<T: PartialOrd + Display>(key: &str, value: &T, bounds: &RangeInclusive<T>) -> Result<(), Fault> {
    if bounds.contains(value) {
        return Ok(());
    }
    Err(Fault(format!("{key} is {value}; it takes {} to {}", bounds.start(), bounds.end())))
}

/// An empty variable counts as not set: confique takes it so where the parser fails.
#[derive(Debug, thiserror::Error)]
#[error("empty")]
pub struct Empty;

/// Reads a text from a variable.
pub fn text(value: &str) -> Result<String, Empty> {
    if value.is_empty() { Err(Empty) } else { Ok(value.into()) }
}

/// Reads a list from a variable, its items separated by commas.
pub fn list(value: &str) -> Result<Vec<String>, Empty> {
    let items: Vec<_> = value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(String::from).collect();
    if items.is_empty() { Err(Empty) } else { Ok(items) }
}

/// A time span: a whole number with `ms`, `s`, `m` or `h`, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A number of bytes a second: a whole number with `kbit/s`, `Mbit/s`, `Gbit/s`, `KiB/s` or `MiB/s`, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// Units of time in milliseconds, the largest first.
const TIMES: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Units of size in bytes, the largest first.
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Units of rate in bytes a second, the largest first.
const RATES: [(&str, u64); 6] =
    [("Gbit/s", 125_000_000), ("MiB/s", 1 << 20), ("Mbit/s", 125_000), ("KiB/s", 1 << 10), ("kbit/s", 125), ("B/s", 1)];

/// Reads a number and its unit.
fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().ok()?;
    if number == 0 && unit.is_empty() {
        return Some(0);
    }
    let (_, each) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.checked_mul(*each)
}

/// Writes a number in the largest unit that leaves it whole.
fn write(number: u64, units: &[(&str, u64)], f: &mut Formatter<'_>) -> fmt::Result {
    let fits = |each: u64| number.checked_rem(each) == Some(0);
    match units.iter().find(|(_, each)| number > 0 && fits(*each)) {
        Some((name, each)) => write!(f, "{}{name}", number / each),
        None => write!(f, "{number}"),
    }
}

impl FromStr for Span {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let span = read(text, &TIMES).map(|ms| Span(Duration::from_millis(ms)));
        span.ok_or_else(|| Fault(format!("`{text}` is no time span; one looks like 500ms, 30s, 10m or 2h")))
    }
}

impl FromStr for Size {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let size = read(text, &SIZES).map(Size);
        size.ok_or_else(|| Fault(format!("`{text}` is no size; one looks like 512KiB, 64MiB or 2GiB")))
    }
}

impl FromStr for Rate {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let rate = read(text, &RATES).map(Rate);
        rate.ok_or_else(|| Fault(format!("`{text}` is no rate; one looks like 800kbit/s, 2Mbit/s or 500KiB/s")))
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &TIMES, f)
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write(self.0, &SIZES, f)
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write(self.0, &RATES, f)
    }
}

/// Reads a text, or the number 0 without a unit, for which others are refused.
struct Written<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = Fault>> de::Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a text with a number and its unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! written_as_text {
    ($($kind:ty),+) => {
        $(impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Written(std::marker::PhantomData))
            }
        })+
    };
}

written_as_text!(Span, Size, Rate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_rates_are_written_as_they_are_read() {
        for text in ["0", "1ms", "999ms", "30s", "90s", "10m", "2h"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["0", "1B", "1023B", "64KiB", "512MiB", "1536MiB", "2GiB", "1TiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in ["0", "7B/s", "64kbit/s", "500KiB/s", "2Mbit/s", "1MiB/s", "10Gbit/s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!("2 Mbit/s".parse(), Ok(Rate(250_000)));
        let same = [("60s", "1m"), ("1000ms", "1s"), (" 5 s ", "5s")];
        assert!(same.iter().all(|(a, b)| a.trim().parse::<Span>().unwrap().to_string() == *b));
        assert_eq!("1024 KiB".parse(), Ok(Size(1 << 20)));
    }

    #[test]
    fn what_has_no_unit_or_another_is_refused_with_an_example() {
        for bad in ["", "30", "s", "-1s", "1.5s", "5y", "30S", "1s1", "99999999999999999999s", "18446744073709551615h"]
        {
            let fault = bad.parse::<Span>().unwrap_err().to_string();
            assert!(fault.starts_with(&format!("`{bad}` is no time span")) && fault.contains("30s"), "{fault}");
        }
        for bad in ["", "2000", "2Mbit", "2MBit/s", "1.8Mbit/s", "Mbit/s"] {
            let fault = bad.parse::<Rate>().unwrap_err().to_string();
            assert!(fault.starts_with(&format!("`{bad}` is no rate")) && fault.contains("2Mbit/s"), "{fault}");
        }
        for bad in ["", "512", "MiB", "-1MiB", "1.5GiB", "512MB", "512mib", "18446744073709551615TiB"] {
            let fault = bad.parse::<Size>().unwrap_err().to_string();
            assert!(fault.starts_with(&format!("`{bad}` is no size")) && fault.contains("64MiB"), "{fault}");
        }
    }

    #[test]
    fn bounds_belong_to_what_is_taken() {
        let check = |n: u32| within("most", &n, &(8..=64)).map_err(|fault| fault.0);
        assert_eq!((check(8), check(64)), (Ok(()), Ok(())));
        assert_eq!(check(7), Err("most is 7; it takes 8 to 64".into()));
        assert!(check(65).is_err());
        assert_eq!(
            within("room", &Size(1), &(Size(1 << 20)..=Size(1 << 30))).unwrap_err().0,
            "room is 1B; it takes 1MiB to 1GiB"
        );
    }

    #[test]
    fn an_empty_variable_sets_nothing() {
        assert!(text("").is_err() && list("").is_err() && list(" , ").is_err());
        assert_eq!((text("a").unwrap(), list("a, b,").unwrap()), ("a".into(), vec!["a".to_owned(), "b".into()]));
    }
}
