//! The config file: TOML, every key known, every value with its line.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::{RawLayer, RawLimits, Refusal, Selector, Setting};
use super::source::Stamp;

/// What a config file says.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigFile {
    pub(super) container: Option<Setting>,
    pub(super) driver: Option<Setting>,
    pub(super) strict: Option<Setting>,
    pub(super) sealed: Option<Setting>,
    pub(super) limits: RawLayer,
}

/// A table of the file and its dotted name.
struct Table<'a> {
    file: &'a Source<'a>,
    name: String,
    entries: &'a DeTable<'a>,
}

/// The file's path and text, which turn a position into a line.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

type Entry<'a> = (
    &'a Spanned<toml::de::DeString<'a>>,
    &'a Spanned<DeValue<'a>>,
);

/// The file that `$CUDA_HOOK_CONFIG` names; it must be there.
pub(super) fn read_named(named_by: &Setting) -> Result<(ConfigFile, Stamp), Refusal> {
    let path = Path::new(&named_by.value);
    let (text, stamp) =
        text_of(path).map_err(|error| named_by.refuse(error, "a readable config file"))?;
    Ok((read(path, &text)?, stamp))
}

/// The file at the usual place, where there is one.
pub(super) fn read_default(path: &Path) -> Result<Option<(ConfigFile, Stamp)>, Refusal> {
    match text_of(path) {
        Ok((text, stamp)) => Ok(Some((read(path, &text)?, stamp))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Refusal {
            source_name: path.display().to_string(),
            key: "config file".to_owned(),
            value: None,
            problem: error.to_string(),
            allowed: "a readable file, or none".to_owned(),
        }),
    }
}

/// What a file says, and which it was before that was read: what is written meanwhile is seen at the next look.
fn text_of(path: &Path) -> io::Result<(String, Stamp)> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    Ok((io::read_to_string(file)?, stamp))
}

fn read(path: &Path, text: &str) -> Result<ConfigFile, Refusal> {
    let source = Source { path, text };
    let document = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
    let root = Table {
        file: &source,
        name: String::new(),
        entries: document.get_ref(),
    };
    let mut config = ConfigFile::default();
    for (key, value) in root.entries {
        match key.get_ref().as_ref() {
            "container" => config.container = Some(root.scalar((key, value))?),
            "driver" => config.driver = Some(root.scalar((key, value))?),
            "strict" => config.strict = Some(root.flag((key, value))),
            "sealed" => config.sealed = Some(root.flag((key, value))),
            "limits" => config.limits = root.table((key, value))?.layer()?,
            _ => return Err(root.unknown(key, "container, driver, strict, sealed, limits")),
        }
    }
    Ok(config)
}

impl Source<'_> {
    /// `path:line` of a byte offset.
    fn at(&self, offset: usize) -> String {
        let before = self.text.bytes().take(offset);
        let line = before
            .filter(|byte| *byte == b'\n')
            .count()
            .saturating_add(1);
        format!("{}:{line}", self.path.display())
    }

    fn syntax(&self, error: &toml::de::Error) -> Refusal {
        let span = error.span().unwrap_or_default();
        let line = self
            .text
            .get(..span.start)
            .map_or("", |before| before.rsplit('\n').next().unwrap_or_default());
        let rest = self
            .text
            .get(span.start..)
            .map_or("", |after| after.lines().next().unwrap_or_default());
        Refusal {
            source_name: self.at(span.start),
            key: format!("{line}{rest}")
                .split('=')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned(),
            value: None,
            problem: error.message().replace('\n', ", "),
            allowed: "TOML, each key once".to_owned(),
        }
    }
}

impl<'a> Table<'a> {
    fn layer(&self) -> Result<RawLayer, Refusal> {
        let mut layer = RawLayer::default();
        for entry in self.entries {
            match entry.0.get_ref().as_ref() {
                "gpu" => layer.gpus = self.table(entry)?.gpus()?,
                _ => self.limit(entry, &mut layer.every_gpu, ", gpu")?,
            }
        }
        Ok(layer)
    }

    fn gpus(&self) -> Result<Vec<(Selector, Setting, RawLimits)>, Refusal> {
        let mut gpus = Vec::new();
        for (key, value) in self.entries {
            let named_by = self.setting(key, key.get_ref().to_string());
            let table = self.table((key, value))?;
            let mut limits = RawLimits::default();
            for entry in table.entries {
                table.limit(entry, &mut limits, "")?;
            }
            gpus.push((Selector::uuid(&named_by, key.get_ref())?, named_by, limits));
        }
        Ok(gpus)
    }

    /// `others`: what else is allowed there, behind commas.
    fn limit(&self, entry: Entry<'a>, limits: &mut RawLimits, others: &str) -> Result<(), Refusal> {
        let place = match entry.0.get_ref().as_ref() {
            "memory" => &mut limits.memory,
            "memory_soft" => &mut limits.memory_soft,
            "sm" => &mut limits.sm,
            "sm_max" => &mut limits.sm_max,
            "spill" => {
                limits.spill = Some(self.flag(entry));
                return Ok(());
            }
            _ => {
                let allowed = format!("memory, memory_soft, spill, sm, sm_max{others}");
                return Err(self.unknown(entry.0, &allowed));
            }
        };
        *place = Some(self.scalar(entry)?);
        Ok(())
    }

    fn dotted(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn setting(&self, key: &Spanned<toml::de::DeString<'a>>, value: String) -> Setting {
        Setting {
            source: self.file.at(key.span().start),
            key: self.dotted(key.get_ref()),
            value,
        }
    }

    fn table(&self, (key, value): Entry<'a>) -> Result<Table<'a>, Refusal> {
        match value.get_ref() {
            DeValue::Table(entries) => Ok(Table {
                file: self.file,
                name: self.dotted(key.get_ref()),
                entries,
            }),
            _ => Err(self
                .setting(key, self.written(value))
                .refuse("is not a table", "a table")),
        }
    }

    /// A string or a number, as text: both are read by the same grammar as the environment.
    fn scalar(&self, (key, value): Entry<'a>) -> Result<Setting, Refusal> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => {
                return Err(self
                    .setting(key, self.written(value))
                    .refuse("is neither text nor a number", "text, or a number"));
            }
        };
        Ok(self.setting(key, text))
    }

    /// What is written, without quotes that would make it a text: whether it is true or false is judged with the environment's.
    fn flag(&self, (key, value): Entry<'a>) -> Setting {
        self.setting(key, self.written(value))
    }

    fn written(&self, value: &Spanned<DeValue<'a>>) -> String {
        self.file
            .text
            .get(value.span())
            .unwrap_or_default()
            .to_owned()
    }

    fn unknown(&self, key: &Spanned<toml::de::DeString<'a>>, allowed: &str) -> Refusal {
        let setting = self.setting(key, String::new());
        Refusal {
            value: None,
            ..setting.refuse("is not a known key", allowed)
        }
    }
}
