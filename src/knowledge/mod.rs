//! K: what is known. Windows, pools, histories and the resource model are pure.

pub mod history;
pub mod pool;
pub mod resources;
mod sorted;
mod summary;
pub mod window;

pub use history::History;
pub use pool::Pool;
pub use resources::{Membership, Movement, Resources};
pub use window::Window;
