//! Has the container obey its config file when that is rewritten while programs run.
//!
//! Looked at from the door, by whatever call comes in, by launches that wait, and from the thread that watches launches while some
//! are out: at most every 25 ms, and otherwise without a system call. Processes without a config file have nothing to look at.

use limiter::clock;
use limiter::config::Refusal;
use limiter::follow::{Follower, Moment, Version};
use limiter::units::MonotonicNs;

use crate::log;
use crate::runtime::{Attachment, Complaint};

/// Looks at the config file, if there is one and it is time.
#[inline]
pub(crate) fn look(attachment: &Attachment) {
    if let Some(follower) = &attachment.follower
        && follower.is_due(clock::coarse())
    {
        follow(attachment, follower);
    }
}

/// Whether [`look`] would.
#[inline]
pub(crate) fn is_due(attachment: &Attachment) -> bool {
    let follower = attachment.follower.as_ref();
    follower.is_some_and(|follower| follower.is_time(clock::coarse()))
}

/// When a thread that waits should look again; never without a config file.
pub(crate) fn next_look(attachment: &Attachment, now: MonotonicNs) -> MonotonicNs {
    match &attachment.follower {
        Some(_) => now.saturating_add_ns(Follower::LOOK_EVERY_NS),
        None => MonotonicNs::new(u64::MAX),
    }
}

/// What the file says, if it was rewritten.
pub(crate) fn rewritten(follower: &Follower) -> Option<Result<Version, Refusal>> {
    follower.rewritten(clock::wall_ns())
}

#[cold]
fn follow(attachment: &Attachment, follower: &Follower) {
    let Some(rewritten) = rewritten(follower) else {
        return;
    };
    let obeyed = rewritten.map_err(Complaint::from).and_then(|version| {
        let limits = version.limits.bind(&attachment.uuids())?;
        let (ledger, now) = (&attachment.ledger, clock::monotonic());
        Follower::obey(ledger, &limits, version.stamp, Moment::Rewritten, now)
            .map_err(Complaint::unusable)
    });
    match obeyed {
        Ok(()) => tracing::info!("the config file was rewritten"),
        Err(complaint) => log::line(format_args!("{complaint}; the limits stay as they were")),
    }
}
