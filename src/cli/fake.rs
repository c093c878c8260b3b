//! Placeholder for the service to try policies out on; the real one replaces this file.

/// What the fake service is to be.
#[derive(Debug, Clone, clap::Args)]
pub struct FakeOptions {
    /// Its name.
    pub name: String,
}

/// Serves the fake service.
///
/// # Errors
/// Always: this is the placeholder.
pub async fn serve(_options: FakeOptions) -> std::io::Result<()> {
    Err(std::io::Error::other("this build has no fake services"))
}
