//! Bytes a second, as people write them.

/// Units in bytes a second, the largest first.
const UNITS: [(&str, u64); 6] =
    [("Gbit/s", 125_000_000), ("MiB/s", 1 << 20), ("Mbit/s", 125_000), ("KiB/s", 1 << 10), ("kbit/s", 125), ("B/s", 1)];

/// Reads a whole number and its unit, or 0.
pub(crate) fn read(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, each) = UNITS.iter().find(|(known, _)| *known == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*each)
}

/// Writes it in the largest unit that leaves it whole.
pub(crate) fn shown(rate: u64) -> String {
    let unit = UNITS.iter().find(|(_, each)| rate > 0 && rate.is_multiple_of(*each));
    unit.map_or_else(|| rate.to_string(), |(unit, each)| format!("{}{unit}", rate / each))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_as_it_is_read() {
        for text in ["0", "7B/s", "64kbit/s", "500KiB/s", "2Mbit/s", "1MiB/s", "10Gbit/s"] {
            assert_eq!(read(text).map(shown).as_deref(), Some(text));
        }
        for bad in ["", "2", "Mbit/s", "2Mbit", "1.8Mbit/s", "-1B/s", "99999999999999999999B/s", "999999999999Gbit/s"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
