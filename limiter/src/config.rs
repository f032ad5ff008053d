//! What limits a container has: the config file and the environment, checked.
//!
//! A value goes one way: text with its origin (`raw`) → units and ranges (`Layer`) → [`Limits`] → [`GpuLimits`].
//! This module is the only one that can refuse a setting, and [`load`] the only function that reads the process's
//! environment.
//!
//! Sources, and what each may do:
//! * the config file (`$CUDA_HOOK_CONFIG`, else [`CONFIG_PATH`] where it exists) sets limits;
//! * `CUDA_HOOK_*` sets limits where the file sets none, and otherwise only lowers them: of two values the lower one
//!   counts. A container's name that the file gives cannot be changed;
//! * HAMi-core's variables count where neither of the above sets a limit.

mod change;
mod container;
mod file;
mod raw;
mod source;
mod variables;

use std::cell::LazyCell;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use self::change::{Change, Wanted};
pub use self::container::ContainerName;
pub use self::raw::Refusal;
use self::raw::{RawLayer, RawLimits, Selector, Setting};
pub use self::source::{Source, Stamp};
use crate::shm;
use crate::text;
use crate::units::{Bytes, DeviceUuid, Percent};

/// Where the config file stands when `$CUDA_HOOK_CONFIG` names none.
pub const CONFIG_PATH: &str = "/etc/cuda-hook/config.toml";

/// Folder of the shared state, unless this process may not write there; in a container always.
const RUN_DIR: &str = "/run/cuda-hook";

/// Everything that was configured for this process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose quota this is.
    pub container: ContainerName,
    /// No source names the container: it is called after its cgroup.
    pub container_is_default: bool,
    /// Folder of the shared state. May not exist yet.
    pub dir: PathBuf,
    /// How much is said on stderr.
    pub log: LogLevel,
    /// Path of the real `libcuda.so.1`, where it is not the one the loader finds.
    pub driver: Option<PathBuf>,
    /// Functions of the driver that this version does not know are not handed out where their names sound like memory or
    /// launches.
    pub strict: bool,
    /// The config file that sets limits, if one does.
    pub source: Option<Source>,
    /// `None`: no source sets a limit; interpose nothing. A limit of `max` is set, so that it can be changed later.
    pub limits: Option<Limits>,
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What makes enforcement impossible.
    #[default]
    Error,
    /// What deserves attention.
    Warn,
    /// Attach, detach, refusals.
    Info,
    /// Every decision.
    Debug,
    /// Every hooked call.
    Trace,
}

/// The configured limits of a container, before its GPUs are known.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The file's before the environment's; a later layer only lowers what an earlier one says.
    layers: Vec<Layer>,
}

/// The limits of a container on one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuLimits {
    /// Most device memory; `None`: no limit; 0: nothing may be allocated.
    pub memory_bytes_max: Option<Bytes>,
    /// What of that is guaranteed: what is beyond is borrowed. `None`: all of it. Never above `memory_bytes_max`.
    pub memory_bytes_soft: Option<Bytes>,
    /// Whether allocations past the guaranteed part become managed memory, on the host.
    pub spill: bool,
    /// Guaranteed share of SM time; `None`: none is.
    pub sm: Option<Percent>,
    /// The share never exceeded; `None`: no cap. Never below `sm`; equals it when only `sm` is set.
    pub sm_max: Option<Percent>,
}

/// The memory that a container has of one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// The quota; `None`: no limit.
    pub max: Option<Bytes>,
    /// What is guaranteed, as configured; `None`: all of the quota.
    pub soft: Option<Bytes>,
    /// Whether allocations past the guaranteed part become managed memory, on the host.
    pub spill: bool,
}

/// A quota, all of it guaranteed.
impl From<Option<Bytes>> for MemoryLimits {
    fn from(max: Option<Bytes>) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }
}

impl From<MemoryLimits> for GpuLimits {
    fn from(MemoryLimits { max, soft, spill }: MemoryLimits) -> Self {
        Self {
            memory_bytes_max: max,
            memory_bytes_soft: soft,
            spill,
            ..Self::default()
        }
    }
}

impl From<Option<Bytes>> for GpuLimits {
    fn from(max: Option<Bytes>) -> Self {
        MemoryLimits::from(max).into()
    }
}

impl From<GpuLimits> for MemoryLimits {
    fn from(limits: GpuLimits) -> Self {
        Self {
            max: limits.memory_bytes_max,
            soft: limits.memory_bytes_soft,
            spill: limits.spill,
        }
    }
}

impl MemoryLimits {
    /// Whether anything is limited: a guarantee alone leaves the rest to be borrowed.
    pub fn is_limited(self) -> bool {
        self.max.is_some() || self.soft.is_some()
    }

    /// What nothing exceeds; `None`: nothing is limited. Beside a guarantee alone it is however much can be borrowed.
    pub fn wall(self) -> Option<Bytes> {
        self.max.or(self.soft.map(|_| Bytes::new(u64::MAX)))
    }

    /// What is guaranteed. Without a quota nothing is, unless it is said how much.
    pub fn guaranteed(self) -> Bytes {
        let soft = lower(self.soft, self.max);
        soft.unwrap_or_default()
    }
}

/// What one source says.
#[derive(Clone, Debug)]
struct Layer {
    every_gpu: Keys,
    gpus: Vec<(Selector, Setting, Keys)>,
}

/// The limits one source gives in one place. Outer `None`: key absent; inner `None` of `memory` and `memory_soft`: `max`.
#[derive(Clone, Copy, Debug, Default)]
struct Keys {
    memory: Option<Option<Bytes>>,
    memory_soft: Option<Option<Bytes>>,
    spill: Option<bool>,
    sm: Option<Percent>,
    sm_max: Option<Percent>,
}

/// What the settings depend on besides the file. What a named container and a named folder make needless is not looked at.
#[derive(Debug)]
struct Host {
    /// The process's environment.
    environment: Vec<(String, String)>,
    /// Text of `/proc/self/cgroup`.
    cgroup: LazyCell<String>,
    /// Folder of the shared state when none is named.
    dir: LazyCell<PathBuf>,
}

/// The settings of this process, from its environment and its config file.
pub fn load() -> Result<Settings, Refusal> {
    load_from(std::env::vars_os())
}

/// [`load`] on behalf of a program that is yet to be started with this environment.
pub fn load_from(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, Refusal> {
    let host = host(environment);
    let settings = resolve(&host, Path::new(CONFIG_PATH))?;
    let may_be_default = settings.dir == Path::new(RUN_DIR) || settings.dir == users_dir();
    if settings.limits.is_some() && may_be_default && settings.dir == *host.dir {
        refuse_foreign_folder(&settings.dir)?;
    }
    Ok(settings)
}

/// [`load_from`] for a program elsewhere, in a container: the folder of the shared state that it will find there is not this machine's, and
/// whose this machine's is says nothing.
pub fn load_for_container(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, Refusal> {
    resolve(&host(environment), Path::new(CONFIG_PATH))
}

fn host(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Host {
    Host {
        environment: environment
            .into_iter()
            .filter(|(name, _)| variables::is_ours(name.as_bytes()))
            .map(|(name, value)| (text::lossy(name.into_vec()), text::lossy(value.into_vec())))
            .collect(),
        // No cgroup to be read is a container without a name of its own.
        cgroup: LazyCell::new(|| fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
        dir: LazyCell::new(default_dir),
    }
}

/// `/run/cuda-hook` where this process may write there, else a folder of the user's own in `/dev/shm`.
fn default_dir() -> PathBuf {
    let run = Path::new(RUN_DIR);
    if shm::is_writable(run) || (!run.exists() && shm::is_writable(Path::new("/run"))) {
        return run.to_owned();
    }
    users_dir()
}

fn users_dir() -> PathBuf {
    PathBuf::from(format!("/dev/shm/cuda-hook-{}", shm::effective_uid()))
}

/// Whether a user may rely on a folder of that owner's: it is its own, or root's, who lends it.
fn is_trusted(owner: u32, user: u32) -> bool {
    owner == user || owner == 0
}

/// `/dev/shm` is everybody's: who makes the folder there first could be anyone, and would own the limits.
fn refuse_foreign_folder(dir: &Path) -> Result<(), Refusal> {
    let setting = Setting {
        source: "default".to_owned(),
        key: "CUDA_HOOK_DIR".to_owned(),
        value: dir.display().to_string(),
    };
    match fs::symlink_metadata(dir) {
        Ok(found) if found.is_dir() && is_trusted(found.uid(), shm::effective_uid()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(setting.refuse("is not a folder of this user", "a folder of this user")),
        Err(error) => Err(setting.refuse(error, "a folder of this user")),
    }
}

/// [`load`] with everything it depends on as arguments, the files that settings name excepted.
fn resolve(host: &Host, default_config: &Path) -> Result<Settings, Refusal> {
    let variables = variables::read(&host.environment)?;
    let path = variables
        .config
        .as_ref()
        .map_or(default_config, |setting| Path::new(&setting.value));
    let found = match &variables.config {
        Some(setting) => {
            refuse_beside_sealed(setting, default_config)?;
            Some(file::read_named(setting)?)
        }
        None => file::read_default(default_config)?,
    };
    let (file, stamp) = found.unwrap_or_default();
    let container = container_name(
        file.container.as_ref(),
        variables.container.as_ref(),
        &host.cgroup,
    )?;
    let check = |limits: &RawLayer| {
        let is_set = !limits.is_empty();
        is_set.then(|| Layer::check(limits)).transpose()
    };
    let (of_file, environment) = (check(&file.limits)?, check(&variables.limits)?);
    // Of a later layer only what it lowers counts.
    refuse_spill_alone(match of_file {
        Some(_) => &file.limits,
        None => &variables.limits,
    })?;
    let source = of_file.is_some().then(|| Source {
        path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        environment: environment.clone(),
        container: container.clone(),
        stamp,
    });
    let mut layers: Vec<Layer> = of_file.into_iter().chain(environment).collect();
    if layers.is_empty() && !variables.hami.is_empty() {
        layers.push(Layer::check(&variables.hami)?);
    }
    Ok(Settings {
        container,
        container_is_default: file.container.is_none() && variables.container.is_none(),
        dir: folder(variables.dir.as_ref(), file.sealed.as_ref(), &host.dir)?,
        log: variables
            .log
            .map_or(Ok(LogLevel::default()), |setting| log_level(&setting))?,
        driver: agreed("driver", file.driver.as_ref(), variables.driver.as_ref())?
            .map(existing_file)
            .transpose()?,
        strict: is_flagged(file.strict.as_ref())? || is_flagged(variables.strict.as_ref())?,
        source,
        limits: (!layers.is_empty()).then_some(Limits { layers }),
    })
}

/// A sealed file at the usual place is the one that counts: no variable names another.
fn refuse_beside_sealed(named: &Setting, default_config: &Path) -> Result<(), Refusal> {
    if Path::new(&named.value) == default_config {
        return Ok(());
    }
    let (usual, _) = file::read_default(default_config)?.unwrap_or_default();
    if is_flagged(usual.sealed.as_ref())? {
        let usual = default_config.display();
        return Err(named.refuse(format_args!("{usual} is sealed"), &usual.to_string()));
    }
    Ok(())
}

/// The folder of the shared state. Under a sealed file it is where all containers have theirs: books that are kept elsewhere would be a
/// second quota.
fn folder(
    named: Option<&Setting>,
    sealed: Option<&Setting>,
    default: &LazyCell<PathBuf>,
) -> Result<PathBuf, Refusal> {
    match named {
        Some(setting) if is_flagged(sealed)? && setting.value != RUN_DIR => {
            Err(setting.refuse("the config file is sealed", RUN_DIR))
        }
        Some(setting) => existing_or_new_folder(setting),
        None if is_flagged(sealed)? => Ok(RUN_DIR.into()),
        None => Ok(PathBuf::clone(default)),
    }
}

/// What the file says, or else the environment, which may not say anything else than the file.
fn agreed<'a>(
    what: &str,
    file: Option<&'a Setting>,
    environment: Option<&'a Setting>,
) -> Result<Option<&'a Setting>, Refusal> {
    if let (Some(file), Some(environment)) = (file, environment)
        && file.value != environment.value
    {
        let problem = format!("differs from the config file's {what}");
        return Err(environment.refuse(problem, &file.value));
    }
    Ok(file.or(environment))
}

fn container_name(
    file: Option<&Setting>,
    environment: Option<&Setting>,
    cgroup: &LazyCell<String>,
) -> Result<ContainerName, Refusal> {
    match agreed("container", file, environment)? {
        Some(setting) => setting.parse(ContainerName::ALLOWED),
        None => Ok(ContainerName::from_cgroup(cgroup)),
    }
}

fn is_flagged(setting: Option<&Setting>) -> Result<bool, Refusal> {
    setting.map_or(Ok(false), is_true)
}

fn is_true(setting: &Setting) -> Result<bool, Refusal> {
    match setting.value.as_str() {
        "false" => Ok(false),
        "true" => Ok(true),
        _ => Err(setting.refuse("is neither true nor false", "true, false")),
    }
}

fn existing_or_new_folder(setting: &Setting) -> Result<PathBuf, Refusal> {
    const ALLOWED: &str = "the absolute path of a folder";
    let path = PathBuf::from(&setting.value);
    if !path.is_absolute() {
        return Err(setting.refuse("is not an absolute path", ALLOWED));
    }
    match fs::metadata(&path) {
        Ok(found) if !found.is_dir() => Err(setting.refuse("is not a folder", ALLOWED)),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(setting.refuse(error, ALLOWED)),
        Ok(_) | Err(_) => Ok(path),
    }
}

fn existing_file(setting: &Setting) -> Result<PathBuf, Refusal> {
    const ALLOWED: &str = "the absolute path of the driver's libcuda.so.1";
    let path = PathBuf::from(&setting.value);
    if !path.is_absolute() {
        return Err(setting.refuse("is not an absolute path", ALLOWED));
    }
    match fs::metadata(&path) {
        Ok(found) if found.is_file() => Ok(path),
        Ok(_) => Err(setting.refuse("is not a file", ALLOWED)),
        Err(error) => Err(setting.refuse(error, ALLOWED)),
    }
}

fn log_level(setting: &Setting) -> Result<LogLevel, Refusal> {
    Ok(match setting.value.as_str() {
        "off" => LogLevel::Off,
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => return Err(setting.refuse("is no log level", "off, error, warn, info, debug, trace")),
    })
}

impl Layer {
    fn check(raw: &RawLayer) -> Result<Self, Refusal> {
        let every_gpu = Keys::check(&raw.every_gpu)?;
        let mut gpus = Vec::new();
        for (selector, named_by, limits) in &raw.gpus {
            let keys = Keys::check(limits)?;
            // A key that the GPU does not have of its own comes from `every_gpu`: the pair must fit too.
            refuse_crossed(&limits.or(&raw.every_gpu), keys.or(every_gpu))?;
            gpus.push((selector.clone(), named_by.clone(), keys));
        }
        Ok(Self { every_gpu, gpus })
    }

    /// What this source says about the GPU at `ordinal` of `devices`.
    fn limits_of(&self, ordinal: usize, devices: &[DeviceUuid]) -> Result<Keys, Refusal> {
        let mut own = None;
        for (selector, named_by, keys) in &self.gpus {
            if selector.find(named_by, devices)? != Some(ordinal) {
                continue;
            }
            if own.replace(*keys).is_some() {
                return Err(named_by.refuse("names a GPU that is named already", "each GPU once"));
            }
        }
        Ok(own.unwrap_or_default().or(self.every_gpu))
    }
}

impl Keys {
    fn check(raw: &RawLimits) -> Result<Self, Refusal> {
        let size = |setting: &Option<Setting>| {
            let size = setting.as_ref().map(|setting| {
                Bytes::parse_or_max(&setting.value)
                    .map_err(|error| setting.refuse(error, Bytes::ALLOWED))
            });
            size.transpose()
        };
        let percent = |setting: &Option<Setting>| {
            setting
                .as_ref()
                .map(|setting| setting.parse(Percent::ALLOWED))
                .transpose()
        };
        let keys = Self {
            memory: size(&raw.memory)?,
            memory_soft: size(&raw.memory_soft)?,
            spill: raw.spill.as_ref().map(is_true).transpose()?,
            sm: percent(&raw.sm)?,
            sm_max: percent(&raw.sm_max)?,
        };
        refuse_crossed(raw, keys)?;
        Ok(keys)
    }

    /// These, and where a key is absent, `general`'s.
    fn or(self, general: Self) -> Self {
        Self {
            memory: self.memory.or(general.memory),
            memory_soft: self.memory_soft.or(general.memory_soft),
            spill: self.spill.or(general.spill),
            sm: self.sm.or(general.sm),
            sm_max: self.sm_max.or(general.sm_max),
        }
    }
}

/// A maximum below the guarantee is a contradiction within one source.
fn refuse_crossed(raw: &RawLimits, keys: Keys) -> Result<(), Refusal> {
    if let (Some(sm), Some(sm_max), Some(setting)) = (keys.sm, keys.sm_max, &raw.sm_max)
        && sm_max < sm
    {
        return Err(setting.refuse("is less than sm", &format!("{sm} to 100%")));
    }
    let [memory, soft] = [keys.memory, keys.memory_soft].map(Option::flatten);
    if let (Some(memory), Some(soft), Some(setting)) = (memory, soft, &raw.memory_soft)
        && soft > memory
    {
        return Err(setting.refuse("is more than memory", &allowed_soft(memory)));
    }
    Ok(())
}

/// What is said of a guarantee above the maximum.
fn allowed_soft(memory: Bytes) -> String {
    format!("0 to {memory}, or a greater memory: what is between the two is borrowed")
}

/// What of a spill that nothing is guaranteed beside: there is no saying from where on to spill.
const SPILL_ALONE: (&str, &str) = (
    "needs memory_soft: what is allocated past it is spilled, up to memory",
    "memory_soft beside it, or false",
);

/// Refuses a `spill` of the source that sets the limits where it sets no `memory_soft`.
fn refuse_spill_alone(raw: &RawLayer) -> Result<(), Refusal> {
    let of_gpus = raw
        .gpus
        .iter()
        .map(|(_, _, limits)| limits.or(&raw.every_gpu));
    for limits in of_gpus.chain([raw.every_gpu.clone()]) {
        if let RawLimits {
            spill: Some(setting),
            memory_soft: None,
            ..
        } = &limits
            && is_true(setting)?
        {
            return Err(setting.refuse(SPILL_ALONE.0, SPILL_ALONE.1));
        }
    }
    Ok(())
}

impl Limits {
    /// The limits on each of `devices`, in that order.
    ///
    /// # Errors
    /// A GPU that the limits name by UUID, or by the beginning of one, is not exactly one of `devices`.
    pub fn bind(&self, devices: &[DeviceUuid]) -> Result<Vec<GpuLimits>, Refusal> {
        for layer in &self.layers {
            for (selector, named_by, _) in &layer.gpus {
                selector.find(named_by, devices)?;
            }
        }
        (0..devices.len())
            .map(|ordinal| self.bind_one(ordinal, devices))
            .collect()
    }

    fn bind_one(&self, ordinal: usize, devices: &[DeviceUuid]) -> Result<GpuLimits, Refusal> {
        let mut layers = self.layers.iter();
        let mut limits = GpuLimits {
            spill: true, // for the first to say
            ..GpuLimits::default()
        };
        if let Some(first) = layers.next() {
            let keys = first.limits_of(ordinal, devices)?;
            let spill = keys.spill.or(Some(false));
            limits = limits.lowered_by(Keys { spill, ..keys });
        }
        for layer in layers {
            limits = limits.lowered_by(layer.limits_of(ordinal, devices)?);
        }
        Ok(limits)
    }
}

impl GpuLimits {
    /// These limits where `keys` does not say less.
    fn lowered_by(self, keys: Keys) -> Self {
        let sm = lower(self.sm, keys.sm);
        let sm_max = lower(self.sm_max, keys.sm_max).or(sm);
        let memory = lower(self.memory_bytes_max, keys.memory.flatten());
        let soft = lower(self.memory_bytes_soft, keys.memory_soft.flatten());
        Self {
            memory_bytes_max: memory,
            memory_bytes_soft: soft.map(|soft| memory.map_or(soft, |memory| soft.min(memory))),
            spill: self.spill && keys.spill.unwrap_or(true),
            sm: sm.map(|sm| sm_max.map_or(sm, |sm_max| sm.min(sm_max))),
            sm_max,
        }
    }
}

/// The lower of two limits, where `None` is no limit.
fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests;
