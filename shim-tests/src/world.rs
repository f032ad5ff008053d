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
    /// No preload: the library stands in the driver's place, with the simulated driver named to it, and limits.
    SecondDoor(Vec<(String, String)>),
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

    /// The same limits, behind the second door.
    pub fn by_second_door(self) -> Self {
        match self {
            Self::Bare | Self::Transparent => Self::SecondDoor(Vec::new()),
            Self::Limited(limits) | Self::SecondDoor(limits) => Self::SecondDoor(limits),
        }
    }

    /// The environment variables that set its limits.
    pub fn limits(&self) -> &[(String, String)] {
        match self {
            Self::Bare | Self::Transparent => &[],
            Self::Limited(limits) | Self::SecondDoor(limits) => limits,
        }
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
