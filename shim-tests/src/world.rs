//! What stands between a program and the driver.

/// The world a program runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum World {
    /// The program and the driver.
    Bare,
    /// The same, and the preload with no limits.
    Transparent,
    /// The same, and limits: environment variables and their values.
    Limited(Vec<(String, String)>),
}

impl World {
    /// A limited world.
    pub fn limited<'a>(limits: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::Limited(
            limits
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// Container `container` with a memory quota.
    pub fn memory(container: &str, quota: &str) -> Self {
        Self::limited([
            ("CUDA_HOOK_CONTAINER", container),
            ("CUDA_HOOK_MEMORY", quota),
        ])
    }

    /// Container `container` with a share of SM time.
    pub fn sm(container: &str, percent: &str) -> Self {
        Self::limited([
            ("CUDA_HOOK_CONTAINER", container),
            ("CUDA_HOOK_SM", percent),
        ])
    }

    /// Whether the preload is in this world.
    pub fn has_hook(&self) -> bool {
        matches!(self, Self::Transparent | Self::Limited(_))
    }
}
