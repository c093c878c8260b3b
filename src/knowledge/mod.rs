//! K: what is known. Windows are pure.

mod sorted;
mod summary;
pub mod window;

pub use window::Window;
