//! Who may handle a protocol: one program, or several that share it, and under a lease the user whose program has left. Pure: time is an
//! argument. It never sees a stream.

use std::time::Duration;

use tokio::time::Instant;

/// Most programs that share one protocol.
pub(super) const MAX_SHARING: usize = 64;
/// Longest lease.
const MAX_LEASE: Duration = Duration::from_secs(600);
/// Longest name of a lease, in bytes.
const MAX_NAME: usize = 64;

/// What a program asks for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// On which protocol.
    pub protocol: String,
    /// Others who ask for the same may handle it too.
    pub share: bool,
    /// Kept for it when it goes.
    pub lease: Option<Lease>,
}

/// A protocol stays its user's for a while after the call has ended.
#[derive(Clone, Debug)]
pub struct Lease {
    /// User id of the program.
    pub owner: u32,
    /// How the program calls it.
    pub name: String,
    /// For how long.
    pub keep: Duration,
}

impl Claim {
    /// Checks what is asked for: the field that is wrong, and what it takes.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match &self.lease {
            Some(lease) if lease.name.is_empty() || lease.name.len() > MAX_NAME => {
                Err(("lease", "has 1 to 64 bytes where lease_ms is given"))
            }
            Some(lease) if lease.keep > MAX_LEASE => Err(("lease_ms", "takes at most 600000")),
            Some(_) if self.share => Err(("share", "does not go with a lease")),
            _ => Ok(()),
        }
    }
}

/// Why a program may not handle a protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody holds it any more, and it will be free in a moment.
    Ending,
    /// As many programs share it as may.
    Full,
    /// Another program handles it.
    Taken,
    /// For so long it is kept for a program of its lease.
    Leased(Duration),
}

/// Who holds a protocol.
pub(super) struct Holders {
    share: bool,
    lease: Option<Lease>,
    present: Present,
}

#[derive(Clone, Copy)]
enum Present {
    Programs(usize),
    NobodySince(Instant),
}

impl Holders {
    /// The program that claims a free protocol.
    pub(super) fn first(claim: &Claim) -> Self {
        Holders { share: claim.share, lease: claim.lease.clone(), present: Present::Programs(1) }
    }

    /// One more program claims it.
    pub(super) fn join(&mut self, claim: &Claim, now: Instant) -> Result<(), Refusal> {
        let programs = match (self.present, self.held_until()) {
            (Present::Programs(count), _) if self.share && claim.share => {
                if count >= MAX_SHARING {
                    return Err(Refusal::Full);
                }
                count
            }
            (Present::NobodySince(_), Some(until)) => {
                let left = until.saturating_duration_since(now);
                if left.is_zero() {
                    return Err(Refusal::Ending);
                }
                if !self.is_kept_for(claim) {
                    return Err(Refusal::Leased(left));
                }
                0
            }
            _ => return Err(Refusal::Taken),
        };
        self.present = Present::Programs(programs + 1);
        self.lease.clone_from(&claim.lease);
        Ok(())
    }

    /// Whether a claim is of the user and of the name that the lease is of.
    fn is_kept_for(&self, claim: &Claim) -> bool {
        let (Some(held), Some(asked)) = (&self.lease, &claim.lease) else { return false };
        held.owner == asked.owner && held.name == asked.name
    }

    /// A program has left.
    pub(super) fn leave(&mut self, now: Instant) {
        self.present = match self.present {
            Present::Programs(count) if count > 1 => Present::Programs(count - 1),
            _ => Present::NobodySince(now),
        };
    }

    /// Until when it is held for nobody that is there; `None` while somebody is.
    pub(super) fn held_until(&self) -> Option<Instant> {
        match self.present {
            Present::Programs(_) => None,
            Present::NobodySince(left) => Some(left + self.lease.as_ref().map_or(Duration::ZERO, |lease| lease.keep)),
        }
    }

    /// Whether a stream may wait for somebody: a program that is there, or one that may come back.
    pub(super) fn expects_streams(&self) -> bool {
        self.lease.is_some() || matches!(self.present, Present::Programs(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn alone() -> Claim {
        Claim { protocol: "/test/1".into(), share: false, lease: None }
    }

    fn shared() -> Claim {
        Claim { share: true, ..alone() }
    }

    fn leased(owner: u32, name: &str, keep: Duration) -> Claim {
        Claim { lease: Some(Lease { owner, name: name.into(), keep }), ..alone() }
    }

    #[test]
    fn a_claim_is_checked_field_by_field() {
        let wrong = |claim: Claim| claim.check().err().map(|(field, _)| field);
        let name = |bytes: usize| leased(1, &"n".repeat(bytes), SECOND);
        for fine in [alone(), shared(), name(1), name(MAX_NAME), leased(1, "n", MAX_LEASE)] {
            assert_eq!(wrong(fine.clone()), None, "{fine:?}");
        }
        assert_eq!([wrong(name(0)), wrong(name(MAX_NAME + 1))], [Some("lease"); 2]);
        assert_eq!(wrong(leased(1, "n", MAX_LEASE + Duration::from_millis(1))), Some("lease_ms"));
        assert_eq!(wrong(Claim { share: true, ..leased(1, "n", SECOND) }), Some("share"));
    }

    #[test]
    fn a_protocol_is_shared_only_among_those_who_all_want_to() {
        let now = Instant::now();
        for (first, second) in [(alone(), alone()), (alone(), shared()), (shared(), alone())] {
            assert_eq!(Holders::first(&first).join(&second, now), Err(Refusal::Taken), "{first:?} {second:?}");
        }
        let mut holders = Holders::first(&shared());
        (1..MAX_SHARING).for_each(|n| assert_eq!(holders.join(&shared(), now), Ok(()), "{n}"));
        assert_eq!(holders.join(&shared(), now), Err(Refusal::Full));
        holders.leave(now);
        assert_eq!(holders.join(&shared(), now), Ok(()), "one has left");
    }

    #[test]
    fn a_shared_protocol_is_free_when_the_last_has_left() {
        let now = Instant::now();
        let mut holders = Holders::first(&shared());
        holders.join(&shared(), now).unwrap();
        holders.leave(now);
        assert!(holders.held_until().is_none() && holders.expects_streams(), "one is there");
        holders.leave(now);
        assert_eq!((holders.held_until(), holders.expects_streams()), (Some(now), false));
        assert_eq!(holders.join(&shared(), now), Err(Refusal::Ending));
    }

    #[test]
    fn a_lease_keeps_a_protocol_for_its_owner_and_name_until_its_time_is_over() {
        let start = Instant::now();
        let mut holders = Holders::first(&leased(1, "radio", 10 * SECOND));
        assert_eq!(holders.join(&leased(1, "radio", 10 * SECOND), start), Err(Refusal::Taken), "it is there itself");
        holders.leave(start);
        assert!(holders.expects_streams(), "they wait for its return");
        assert_eq!(holders.held_until(), Some(start + 10 * SECOND));
        let later = start + 4 * SECOND;
        for other in [leased(2, "radio", SECOND), leased(1, "chat", SECOND), alone(), shared()] {
            assert_eq!(holders.join(&other, later), Err(Refusal::Leased(6 * SECOND)), "{other:?}");
        }
        let last = start + Duration::from_millis(9_999);
        assert_eq!(holders.join(&alone(), last), Err(Refusal::Leased(Duration::from_millis(1))));
        assert_eq!(holders.join(&leased(1, "radio", SECOND), start + 10 * SECOND), Err(Refusal::Ending));
    }

    #[test]
    fn who_comes_back_holds_the_protocol_by_the_newest_lease() {
        let start = Instant::now();
        let mut holders = Holders::first(&leased(1, "radio", 10 * SECOND));
        holders.leave(start);
        assert_eq!(holders.join(&leased(1, "radio", 2 * SECOND), start + SECOND), Ok(()));
        assert_eq!(holders.held_until(), None, "it is back");
        assert_eq!(holders.join(&leased(1, "radio", SECOND), start + SECOND), Err(Refusal::Taken));
        holders.leave(start + 5 * SECOND);
        assert_eq!(holders.held_until(), Some(start + 7 * SECOND));
    }

    #[test]
    fn a_protocol_without_a_lease_is_free_at_once() {
        let now = Instant::now();
        let mut holders = Holders::first(&alone());
        assert!(holders.held_until().is_none() && holders.expects_streams());
        holders.leave(now);
        assert_eq!((holders.held_until(), holders.expects_streams()), (Some(now), false));
        assert_eq!(holders.join(&alone(), now), Err(Refusal::Ending));
    }
}
