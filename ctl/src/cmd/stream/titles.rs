//! The titles of a stream that is heard, until their frames are played.

use std::collections::VecDeque;

/// Most titles that wait for their frames.
const TITLES: usize = 8;

/// A title, and the media time that it begins at, in 48 kHz ticks.
struct Title {
    pts: u64,
    text: String,
}

/// Titles whose frames are still to be played.
#[derive(Default)]
pub(super) struct TitleQueue {
    to_come: VecDeque<Title>,
    newest: Option<u64>,
}

impl TitleQueue {
    /// Takes a title that is newer than those before. Beyond the limit the oldest are dropped.
    pub(super) fn add(&mut self, pts: u64, text: String) {
        if self.newest.is_some_and(|newest| pts <= newest) {
            return;
        }
        self.newest = Some(pts);
        self.to_come.push_back(Title { pts, text });
        if self.to_come.len() > TITLES {
            self.to_come.pop_front();
        }
    }

    /// The next title that begins at this media time or before.
    pub(super) fn due(&mut self, pts: u64) -> Option<String> {
        self.to_come.pop_front_if(|title| title.pts <= pts).map(|title| title.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_titles_the_newest_are_kept() {
        let mut titles = TitleQueue::default();
        (1..=100).for_each(|n| titles.add(n, n.to_string()));
        titles.add(50, "an older one".into());
        assert_eq!(titles.due(92), None);
        assert_eq!(titles.due(93).as_deref(), Some("93"));
        let rest: Vec<String> = std::iter::from_fn(|| titles.due(1_000)).collect();
        assert_eq!((rest.len(), rest.last().map(String::as_str)), (7, Some("100")));
    }
}
