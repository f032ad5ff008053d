//! The name under which a container's processes share one quota.

use std::fmt;
use std::str::FromStr;

use crate::units::ParseError;

/// A container's name: 1 to 64 of `[A-Za-z0-9._-]`, not starting with a dot. It is a folder's name too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName(String);

const LENGTH_MAX: usize = 64;

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl ContainerName {
    /// What a user may write, for the end of an error message.
    pub const ALLOWED: &'static str = "1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of whoever runs in this cgroup: its path, with `_` for what a name cannot hold; the end of it where it
    /// is too long, for that is where the container's id stands. `default` in the root cgroup.
    ///
    /// `cgroup` is the text of `/proc/<pid>/cgroup`: lines `id:controllers:path`; the unified hierarchy's (`0::`) counts
    /// first, then any that is not the root (cgroups(7)).
    pub(crate) fn from_cgroup(cgroup: &str) -> Self {
        let path_of = |line: &str| {
            line.splitn(3, ':')
                .nth(2)
                .map(|path| path.trim_matches('/').to_owned())
        };
        let unified = cgroup.lines().filter(|line| line.starts_with("0::"));
        let named = unified
            .chain(cgroup.lines())
            .filter_map(path_of)
            .find(|path| !path.is_empty());
        let Some(path) = named else {
            return Self("default".to_owned());
        };
        let safe: Vec<char> = path
            .chars()
            .map(|c| if is_allowed(c) { c } else { '_' })
            .collect();
        let end = safe
            .get(safe.len().saturating_sub(LENGTH_MAX)..)
            .unwrap_or_default();
        let name: String = end.iter().collect();
        Self(match name.strip_prefix('.') {
            Some(rest) => format!("_{rest}"),
            None => name,
        })
    }
}

impl FromStr for ContainerName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError("is empty"));
        }
        if text.len() > LENGTH_MAX {
            return Err(ParseError("is too long"));
        }
        if text.starts_with('.') || !text.chars().all(is_allowed) {
            return Err(ParseError("is not a container's name"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_file_name() {
        for text in ["a", "trainer-7", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(text.parse::<ContainerName>().unwrap().as_str(), text);
        }
        for text in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "a b",
            "ä",
            &"x".repeat(65),
            "a\n",
        ] {
            assert!(text.parse::<ContainerName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_container_without_a_name_is_called_after_its_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        for (cgroup, name) in [
            ("0::/\n".to_owned(), "default".to_owned()),
            (String::new(), "default".to_owned()),
            ("0::/docker/abc\n".to_owned(), "docker_abc".to_owned()),
            ("9:name=systemd:/x\n0::/\n".to_owned(), "x".to_owned()),
            (
                "9:name=systemd:/x\n0::/y.scope\n".to_owned(),
                "y.scope".to_owned(),
            ),
            (
                "0::/.hidden:colon/ä".to_owned(),
                "_hidden_colon__".to_owned(),
            ),
            (format!("0::/kubepods/pod1/{id}"), id),
        ] {
            let found = ContainerName::from_cgroup(&cgroup);
            assert_eq!(found.as_str(), name);
            assert_eq!(found.as_str().parse(), Ok(found));
        }
    }
}
