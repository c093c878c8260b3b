//! K: what is known. Windows, pools, histories and the resource model are pure; the store and the record do I/O and say so.

#[cfg(feature = "forecast")]
pub mod forecast;
pub mod history;
pub mod pool;
pub mod record;
pub mod resources;
mod sorted;
pub mod store;
pub mod stream;
mod summary;
pub mod window;

pub use history::History;
pub use pool::Pool;
pub use record::{Entry, Reader, RecordError, Recorder};
pub use resources::{Membership, Movement, Resources};
pub use store::{Store, StoreError};
pub use window::Window;
