//! New limits for a container whose programs run.

use super::raw::{RawLayer, RawLimits, Refusal, Setting};
use super::{GpuLimits, Keys, Layer, SPILL_ALONE, allowed_soft, variables};
use crate::units::DeviceUuid;

/// What shall become of a container's limits.
#[derive(Clone, Debug)]
pub struct Change(Layer);

/// What somebody wants changed, each text as the variable of its limit has it: `VALUE`, or `GPU-…=VALUE` for one GPU; `None`: that
/// limit stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The quota.
    pub memory: Option<&'a str>,
    /// What of it is guaranteed.
    pub memory_soft: Option<&'a str>,
    /// Whether what is past that goes to the host.
    pub spill: Option<&'a str>,
    /// The guaranteed share. As everywhere, without `sm_max` it is a hard cap.
    pub sm: Option<&'a str>,
    /// The cap.
    pub sm_max: Option<&'a str>,
}

impl Change {
    /// What is wanted, checked.
    ///
    /// # Errors
    /// A value that means nothing, an `sm_max` below the `sm` beside it, or a `memory_soft` above the `memory` beside it.
    pub fn parse(wanted: Wanted<'_>) -> Result<Self, Refusal> {
        let mut raw = RawLayer::default();
        let mut assign =
            |name: &str, text: Option<&str>, key: fn(&mut RawLimits) -> &mut Option<Setting>| {
                let Some(text) = text else { return Ok(()) };
                let setting = Setting {
                    source: "command line".to_owned(),
                    key: name.to_owned(),
                    value: text.to_owned(),
                };
                variables::assign(&mut raw, &setting, key)
            };
        assign("--memory", wanted.memory, |limits| &mut limits.memory)?;
        assign("--memory-soft", wanted.memory_soft, |limits| {
            &mut limits.memory_soft
        })?;
        assign("--spill", wanted.spill, |limits| &mut limits.spill)?;
        assign("--sm", wanted.sm, |limits| &mut limits.sm)?;
        assign("--sm-max", wanted.sm_max, |limits| &mut limits.sm_max)?;
        Layer::check(&raw).map(Self)
    }

    /// What the limits on each of these GPUs become, in that order.
    ///
    /// # Errors
    /// A GPU is named that is none of these, an `sm_max` would be below the `sm` that stays, a `memory_soft` above the `memory` that
    /// stays, or nothing would be guaranteed beside a `spill`.
    pub fn apply(&self, gpus: &[(DeviceUuid, GpuLimits)]) -> Result<Vec<GpuLimits>, Refusal> {
        let uuids: Vec<DeviceUuid> = gpus.iter().map(|(uuid, _)| *uuid).collect();
        let change = |(ordinal, (_, limits)): (usize, &(DeviceUuid, GpuLimits))| {
            limits.changed_by(self.0.limits_of(ordinal, &uuids)?)
        };
        gpus.iter().enumerate().map(change).collect()
    }
}

impl GpuLimits {
    /// These limits where `keys` says nothing.
    fn changed_by(self, keys: Keys) -> Result<Self, Refusal> {
        let changed = Self {
            memory_bytes_max: keys.memory.unwrap_or(self.memory_bytes_max),
            memory_bytes_soft: keys.memory_soft.unwrap_or(self.memory_bytes_soft),
            spill: keys.spill.unwrap_or(self.spill),
            sm: keys.sm.or(self.sm),
            sm_max: keys.sm_max.or(keys.sm).or(self.sm_max),
        };
        let setting = |key: &str, value: String| Setting {
            source: "command line".to_owned(),
            key: key.to_owned(),
            value,
        };
        if let (Some(sm), Some(sm_max)) = (changed.sm, changed.sm_max)
            && sm_max < sm
        {
            let allowed = format!("{sm} to 100%, or another --sm with it");
            return Err(setting("--sm-max", sm_max.to_string())
                .refuse("is less than the container's sm", &allowed));
        }
        // A quota that is lowered below what is guaranteed lowers that, until it is raised again.
        if let (Some(memory), Some(Some(soft))) = (changed.memory_bytes_max, keys.memory_soft)
            && soft > memory
        {
            return Err(setting("--memory-soft", soft.to_string())
                .refuse("is more than the container's memory", &allowed_soft(memory)));
        }
        if changed.spill && changed.memory_bytes_soft.is_none() {
            return Err(setting("--spill", "true".to_owned())
                .refuse(SPILL_ALONE.0, "--memory-soft beside it, or --spill=false"));
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    const ONE: DeviceUuid = DeviceUuid::from_bytes([1; 16]);
    const TWO: DeviceUuid = DeviceUuid::from_bytes([2; 16]);

    fn limits(memory: Option<u64>, sm: &str, sm_max: &str) -> GpuLimits {
        GpuLimits {
            memory_bytes_max: memory.map(Bytes::new),
            sm: sm.parse().ok(),
            sm_max: sm_max.parse().ok(),
            ..GpuLimits::default()
        }
    }

    fn applied(
        [memory, sm, sm_max]: [Option<&str>; 3],
        before: GpuLimits,
    ) -> Result<GpuLimits, String> {
        let wanted = Wanted {
            memory,
            sm,
            sm_max,
            ..Wanted::default()
        };
        apply(wanted, before)
    }

    fn apply(wanted: Wanted<'_>, before: GpuLimits) -> Result<GpuLimits, String> {
        let change = Change::parse(wanted).map_err(|refusal| refusal.to_string())?;
        let after = change.apply(&[(ONE, before)]);
        after
            .map(|limits| limits[0])
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_is_guaranteed_and_spilled_changes_within_the_quota() {
        let before = GpuLimits {
            memory_bytes_soft: Some(Bytes::new(40)),
            ..limits(Some(100), "30", "60")
        };
        let wanted = |memory, memory_soft, spill| Wanted {
            memory,
            memory_soft,
            spill,
            ..Wanted::default()
        };
        let after = |memory, soft: Option<u64>, spill| GpuLimits {
            memory_bytes_max: Some(Bytes::new(memory)),
            memory_bytes_soft: soft.map(Bytes::new),
            spill,
            ..before
        };
        for (change, wanted) in [
            (wanted(None, Some("70"), None), after(100, Some(70), false)),
            (wanted(None, Some("max"), None), after(100, None, false)),
            (wanted(None, None, Some("true")), after(100, Some(40), true)),
            // The quota alone may go below: what is guaranteed ends with it, and is there again above it.
            (wanted(Some("20"), None, None), after(20, Some(40), false)),
        ] {
            assert_eq!(apply(change, before), Ok(wanted), "{change:?}");
        }
        for (change, told) in [
            (
                wanted(None, Some("101"), None),
                "--memory-soft = \"101\": is more than the container's memory; allowed: 0 to 100, or",
            ),
            (
                wanted(Some("50"), Some("51"), None),
                "--memory-soft = \"51\": is more than memory",
            ),
            (
                wanted(None, Some("max"), Some("true")),
                "--spill = \"true\": needs memory_soft",
            ),
            (
                wanted(None, None, Some("yes")),
                "--spill = \"yes\": is neither true nor false",
            ),
        ] {
            let refusal = apply(change, before).unwrap_err();
            assert!(refusal.contains(told), "{refusal}");
        }
    }

    #[test]
    fn what_a_change_does_not_name_stays() {
        let before = limits(Some(100), "30", "60");
        let cases = [
            ([Some("50"), None, None], limits(Some(50), "30", "60")),
            ([Some("max"), None, None], limits(None, "30", "60")),
            ([None, Some("40"), None], limits(Some(100), "40", "40")),
            (
                [None, Some("40"), Some("80")],
                limits(Some(100), "40", "80"),
            ),
            ([None, None, Some("30")], limits(Some(100), "30", "30")),
        ];
        for (change, after) in cases {
            assert_eq!(applied(change, before), Ok(after), "{change:?}");
        }
    }

    #[test]
    fn a_change_that_means_nothing_is_refused_with_its_option() {
        let before = limits(Some(100), "30", "60");
        for (change, told) in [
            ([Some("-1"), None, None], "command line: --memory = \"-1\""),
            ([None, Some("0"), None], "command line: --sm = \"0\""),
            (
                [None, Some("50"), Some("40")],
                "command line: --sm-max = \"40\": is less than sm",
            ),
            (
                [None, None, Some("20")],
                "is less than the container's sm; allowed: 30% to 100%",
            ),
            (
                [Some("GPU-0202=1"), None, None],
                "names a GPU that does not exist",
            ),
        ] {
            let refusal = applied(change, before).unwrap_err();
            assert!(refusal.contains(told), "{refusal}");
        }
    }

    #[test]
    fn one_gpu_can_be_changed_alone() {
        let wanted = Wanted {
            memory: Some("GPU-0202=7"),
            ..Wanted::default()
        };
        let change = Change::parse(wanted).unwrap();
        let before = limits(Some(100), "30", "60");
        let after = change.apply(&[(ONE, before), (TWO, before)]).unwrap();
        assert_eq!(after, [before, limits(Some(7), "30", "60")]);
    }
}
