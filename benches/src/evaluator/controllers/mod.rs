//! The project's own limiter, and controllers to compare it with: baselines, written from descriptions of what others do, not
//! from their source. Read those as mechanisms, not as products.

mod block_tokens;
mod count_window;
mod exclusive_lease;
mod limiter;
mod native;
mod nvml_loop;

pub use block_tokens::{BlockTokens, Step};
pub use count_window::CountWindow;
pub use exclusive_lease::ExclusiveLease;
pub use limiter::{Limited, Mechanism};
pub use native::Native;
pub use nvml_loop::NvmlLoop;
