//! How the values of arguments are read. Each error says what the argument takes.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use crate::rate;

/// Longest duration that is taken.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads 500ms, 10s, 2m, 1h or plain seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no duration; one looks like 10s"))?;
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit; takes ms, s, m and h")),
    };
    if number < 0.0 {
        return Err("a duration cannot be negative; one looks like 10s".into());
    }
    let time = Duration::try_from_secs_f64(number * scale).map_err(|e| e.to_string())?;
    if time > LONGEST {
        return Err(format!("`{text}` is too long; takes at most 1 year, 8760h"));
    }
    Ok(time)
}

/// Reads a whole number within bounds.
pub(super) fn whole<T: FromStr + PartialOrd + Display + Copy>(
    bounds: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| format!("takes a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// Reads the name of a rate and its bytes a second.
pub(super) fn rate(text: &str) -> Result<(String, u64), String> {
    let named = text.split_once('=').and_then(|(name, text)| Some((name.to_owned(), rate::read(text)?)));
    named.ok_or_else(|| "takes a name and a rate, as in upload=2Mbit/s or peer_upload=500KiB/s".into())
}

/// Reads a cursor of events.
pub(super) fn event_cursor(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "takes the number that begins a line of `p2pctl events`".into())
}

/// Reads a cursor of a topic's log.
pub(super) fn log_cursor(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "takes `cursor` of a message that `p2pctl -o jsonl topic sub --durable` printed".into())
}

/// Reads the frequency of a tone. Its range is that of the audio library.
#[cfg(feature = "audio")]
pub(super) fn hertz(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "takes a number of Hz, as in 440".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("8760h"), Ok(Duration::from_secs(365 * 24 * 3600)));
        for bad in ["", "s", "5y", "-1s", "NaN", "8761h", "1e300h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_numbers_have_bounds() {
        let number = whole(1..=4096u32);
        assert_eq!((number("1"), number("4096")), (Ok(1), Ok(4096)));
        for bad in ["", "0", "4097", "-5", "1.5", "many", "99999999999999999999"] {
            assert_eq!(number(bad), Err("takes a whole number from 1 to 4096".into()), "{bad}");
        }
    }
}
