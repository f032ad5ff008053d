//! A profile's TOML: devices that start from a built-in one, and complaints that name the line.

use super::{DEVICES_MAX, MachineProfile, built_in, names};
use crate::parameters::OutOfRange;
use serde::de::{Deserialize, IntoDeserializer};
use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Keys of a `[[device]]` that are not figures of the device: what it starts from, and how many there are.
const BASE_KEY: &str = "profile";
const COUNT_KEY: &str = "count";

/// What is wrong with a profile's text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Line, from 1, and what stands there; `None` where it is about the whole text.
    line: Option<(usize, String)>,
    reason: String,
}

impl Complaint {
    fn whole(reason: impl Into<String>) -> Self {
        Self {
            line: None,
            reason: reason.into(),
        }
    }

    fn at(text: &str, span: &Range<usize>, reason: impl Into<String>) -> Self {
        let number = text[..span.start.min(text.len())].matches('\n').count() + 1;
        let line = text.lines().nth(number - 1).unwrap_or_default();
        Self {
            line: Some((number, line.trim().to_owned())),
            reason: reason.into(),
        }
    }

    fn of(text: &str, error: &toml::de::Error) -> Self {
        match error.span() {
            Some(span) => Self::at(text, &span, error.message()),
            None => Self::whole(error.message()),
        }
    }
}

impl Display for Complaint {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match &self.line {
            Some((number, line)) => write!(f, "line {number}, `{line}`: {}", self.reason),
            None => write!(f, "{}", self.reason),
        }
    }
}

/// A value that is refused though its type is right.
#[derive(Debug)]
pub(super) struct BadValue {
    key: &'static str,
    reason: String,
}

impl BadValue {
    pub(super) fn new(key: &'static str, reason: &str) -> Self {
        Self {
            key,
            reason: format!("{key}: {reason}"),
        }
    }

    pub(super) fn unless_positive(key: &'static str, value: u64) -> Result<(), Self> {
        match value {
            0 => Err(Self::new(key, "it must be positive")),
            _ => Ok(()),
        }
    }
}

impl From<OutOfRange> for BadValue {
    fn from(refusal: OutOfRange) -> Self {
        Self {
            key: refusal.name,
            reason: refusal.to_string(),
        }
    }
}

/// A table of the text; its span is where its header stands.
type Table<'t> = Spanned<DeTable<'t>>;

/// Reads a machine: devices expanded, every value checked.
pub(super) fn read(text: &str) -> Result<MachineProfile, Complaint> {
    let mut root = DeTable::parse(text).map_err(|error| Complaint::of(text, &error))?;
    let mut devices = Vec::new();
    for table in take_devices(text, root.get_mut())? {
        devices.extend(expand(text, table)?);
    }
    if !(1..=DEVICES_MAX).contains(&devices.len()) {
        let count = devices.len();
        return Err(Complaint::whole(format!(
            "{count} devices; allowed are 1 to {DEVICES_MAX}, each of a [[device]] table"
        )));
    }
    let timing = root.get_ref().get("timing").cloned();
    let values = devices.iter().cloned().map(as_value).collect();
    root.get_mut().insert(
        Spanned::new(0..0, Cow::Borrowed("device")),
        Spanned::new(0..0, DeValue::Array(values)),
    );
    let machine = MachineProfile::deserialize(root.into_deserializer())
        .map_err(|error| Complaint::of(text, &error))?;
    if let Some(timing) = &timing {
        let table = timing.get_ref().as_table();
        let check = machine.timing.check().map_err(BadValue::from);
        check.map_err(|bad| refused(text, table, &timing.span(), bad))?;
    }
    for (device, table) in machine.devices.iter().zip(&devices) {
        let check = device.check();
        check.map_err(|bad| refused(text, Some(table.get_ref()), &table.span(), bad))?;
    }
    Ok(machine)
}

/// Takes the `[[device]]` tables out of the document.
fn take_devices<'t>(text: &str, root: &mut DeTable<'t>) -> Result<Vec<Table<'t>>, Complaint> {
    let Some(value) = root.remove("device") else {
        return Ok(Vec::new());
    };
    let span = value.span();
    let not_tables = || Complaint::at(text, &span, "device: [[device]] tables are wanted");
    let DeValue::Array(values) = value.into_inner() else {
        return Err(not_tables());
    };
    let table = |value: Spanned<DeValue<'t>>| {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Ok(Spanned::new(span, table)),
            _ => Err(not_tables()),
        }
    };
    values.into_iter().map(table).collect()
}

fn as_value(table: Table) -> Spanned<DeValue> {
    Spanned::new(table.span(), DeValue::Table(table.into_inner()))
}

/// The devices that one table stands for: `count` of them, with what `profile` names where the table is silent.
fn expand<'t>(text: &str, mut table: Table<'t>) -> Result<Vec<Table<'t>>, Complaint> {
    let span = table.span();
    if let Some(base) = table.get_mut().remove(BASE_KEY) {
        let name = base.get_ref().as_str();
        let base_text = name.and_then(built_in).ok_or_else(|| {
            let known = names();
            Complaint::at(text, &base.span(), format!("{BASE_KEY}: known are {known}"))
        })?;
        for (key, value) in base_table(base_text)? {
            let (key, value) = (key.into_inner(), value.into_inner());
            let values = table.get_mut();
            if !values.contains_key(key.as_ref()) {
                // What is wrong with a value of the base is wrong with this table's use of it.
                values.insert(
                    Spanned::new(span.clone(), key),
                    Spanned::new(span.clone(), value),
                );
            }
        }
    }
    let count = match table.get_mut().remove(COUNT_KEY) {
        None => 1,
        Some(count) => {
            let number = count.get_ref().as_integer();
            let number = number.and_then(|number| number.to_string().parse().ok());
            let number = number.filter(|number| (1..=DEVICES_MAX).contains(number));
            let reason = format!("{COUNT_KEY}: allowed is 1 to {DEVICES_MAX}");
            number.ok_or_else(|| Complaint::at(text, &count.span(), reason))?
        }
    };
    Ok(vec![table; count])
}

/// The one device of a built-in profile.
fn base_table(text: &'static str) -> Result<DeTable<'static>, Complaint> {
    let mut root = DeTable::parse(text).map_err(|error| Complaint::of(text, &error))?;
    let devices = take_devices(text, root.get_mut())?;
    let device = devices.into_iter().next().map(Spanned::into_inner);
    device.ok_or_else(|| Complaint::whole("the built-in profile has no device"))
}

/// Says where the refused value stands: on its own line, or on its table's where it is not written out.
fn refused(text: &str, table: Option<&DeTable>, header: &Range<usize>, bad: BadValue) -> Complaint {
    let value = table
        .and_then(|table| table.get(bad.key))
        .map(Spanned::span);
    Complaint::at(text, value.as_ref().unwrap_or(header), bad.reason)
}
