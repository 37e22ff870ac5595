//! Limits as the daemon keeps them: their form for the kernel, the periods of quotas, and what is to
//! survive a restart.
#![forbid(unsafe_code)]

pub mod book;
pub mod encode;
pub mod period;

pub use self::book::{Book, BookError, Used};
