//! Controllers to compare with: baselines, written from descriptions of what others do, not from their source. Read them as
//! mechanisms, not as products.

mod block_tokens;
mod count_window;
mod exclusive_lease;
mod native;

pub use block_tokens::{BlockTokens, Step};
pub use count_window::CountWindow;
pub use exclusive_lease::ExclusiveLease;
pub use native::Native;
