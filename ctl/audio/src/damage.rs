//! Counts the places of a source that could not be decoded and were left out.

/// What was left out so far.
#[derive(Default)]
pub(crate) struct Damage {
    places: u64,
    /// Whether sound came before: a stream may be joined where no decoder is ready.
    begun: bool,
    /// Whether the last thing was damaged. Damage side by side is one place.
    open: bool,
}

impl Damage {
    /// Something was decoded.
    pub(crate) fn good(&mut self) {
        (self.begun, self.open) = (true, false);
    }

    /// Something was left out.
    pub(crate) fn bad(&mut self) {
        self.places += u64::from(self.begun && !self.open);
        self.open = true;
    }

    /// Another file or decoder begins.
    pub(crate) fn restart(&mut self) {
        (self.begun, self.open) = (false, false);
    }

    /// How many places were left out.
    pub(crate) fn places(&self) -> u64 {
        self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_side_by_side_is_one_place_and_before_the_first_sound_none() {
        let mut damage = Damage::default();
        let mut places = |marks: &str| {
            for mark in marks.chars() {
                match mark {
                    'g' => damage.good(),
                    'b' => damage.bad(),
                    _ => damage.restart(),
                }
            }
            damage.places()
        };
        assert_eq!(["bb", "g", "b", "bb", "gb", "grb", "gg", "bgb"].map(&mut places), [0, 0, 1, 1, 2, 2, 2, 4]);
    }
}
