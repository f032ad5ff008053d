//! What launches on credit have in common with other threads, in every order in which loom finds that they may run: `scripts/test-loom`.
//!
//! A [`Credit`] itself is one thread's, and the compiler keeps it so. What it was set aside from are two words that others write, too: the
//! container's bucket, in shared memory, and the process's window.

use std::sync::Arc;

use loom::thread;

use super::*;
use crate::ledger::models::model;
use crate::sync::AtomicU64;
use crate::window::Window;

const NOW: MonotonicNs = MonotonicNs::new(1_000_000);
const PRICE: GpuNs = GpuNs::new(100);
const GRANTED: GpuNs = GpuNs::new(40);

/// Sets a launch and the ones behind it aside, as `ask` does.
fn admit(tat_ns: &AtomicU64) {
    let whole = GpuNs::new(PRICE.get() + GRANTED.get());
    let decision = Bucket::new(tat_ns).admit(NOW, NOW, whole, Percent::ALL, BURST);
    assert_eq!(decision, Decision::Granted);
}

#[test]
fn what_is_set_aside_stays_charged_but_for_what_comes_back() {
    model(|| {
        let tat_ns = Arc::new(AtomicU64::new(NOW.get()));
        let back = Arc::clone(&tat_ns);
        let gives_back = thread::spawn(move || {
            admit(&back);
            Bucket::new(&back).settle(Correction::Less(GRANTED), Percent::ALL);
        });
        let killed = Arc::clone(&tat_ns);
        let is_killed = thread::spawn(move || admit(&killed));
        gives_back.join().unwrap();
        is_killed.join().unwrap();
        let owed = tat_ns.load(Ordering::Acquire) - NOW.get();
        assert_eq!(owed, 2 * PRICE.get() + GRANTED.get());
    });
}

#[test]
fn nothing_is_outstanding_when_everything_has_ended() {
    model(|| {
        let window = Arc::new(Window::default());
        let launch = |granted: GpuNs| {
            let window = Arc::clone(&window);
            thread::spawn(move || {
                window.push(GpuNs::new(PRICE.get() + granted.get()), NOW);
                window.pop(PRICE, granted, NOW);
            })
        };
        let launches = [launch(GRANTED), launch(GpuNs::default())];
        for launch in launches {
            launch.join().unwrap();
        }
        assert_eq!(window.rest(), 0);
        assert_eq!(window.launches(), 0);
    });
}
