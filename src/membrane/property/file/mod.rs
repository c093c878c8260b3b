//! Values in configuration files: read by pointer, and changed in place so that no reader ever sees half of it.

mod ini;
mod json;
mod toml;
mod yaml;

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::model::manage::FileFormat;

/// The largest configuration file that is read, bytes.
const LARGEST: u64 = 8 << 20;

/// Held while a file is changed: two values of one file, set at once, are both set.
static CHANGING: Mutex<()> = Mutex::new(());

/// Why a file is not read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("`{0}`: {1}")]
    Io(PathBuf, std::io::Error),
    #[error("`{0}` is no file")]
    NoFile(PathBuf),
    #[error("`{0}` is longer than {LARGEST} bytes")]
    TooLong(PathBuf),
    #[error("`{0}` is not written as it should be: {1}")]
    Malformed(PathBuf, String),
    #[error("`{0}` has nothing at `{1}`")]
    NothingThere(PathBuf, String),
    #[error("`{1}` of `{0}` is not set: {2}")]
    NotInPlace(PathBuf, String, String),
}

/// A document, and the text that it is written as.
fn document(path: &Path, format: FileFormat) -> Result<(Value, String), FileError> {
    let io = |error| FileError::Io(path.into(), error);
    let about = fs::metadata(path).map_err(io)?;
    // To open a pipe would wait for its other end.
    if !about.is_file() {
        return Err(FileError::NoFile(path.into()));
    }
    let mut text = String::new();
    File::open(path).map_err(io)?.take(LARGEST + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > LARGEST {
        return Err(FileError::TooLong(path.into()));
    }
    let document = parse(&text, format).map_err(|why| FileError::Malformed(path.into(), why))?;
    Ok((document, text))
}

fn parse(text: &str, format: FileFormat) -> Result<Value, String> {
    match format {
        FileFormat::Json => serde_json::from_str(text).map_err(|e| e.to_string()),
        FileFormat::Yaml => yaml::read(text),
        FileFormat::Toml => toml::read(text),
        FileFormat::Ini => ini::read(text),
    }
}

/// The value at `pointer`; in INI a text, whatever it means. Blocks.
pub(super) fn read(path: &Path, pointer: &str, format: FileFormat) -> Result<Value, FileError> {
    let (mut document, _) = document(path, format)?;
    let found = document.pointer_mut(pointer).map(Value::take);
    found.ok_or_else(|| FileError::NothingThere(path.into(), pointer.into()))
}

/// Puts `value` at `pointer` of a file: written beside, brought to the disk, then renamed. Its parent must be there; a last name that is not there
/// is added in JSON and TOML. What is written is read again before: it must say what it should there, and all else what it said. Blocks.
pub(super) fn write(path: &Path, pointer: &str, value: Value, format: FileFormat) -> Result<(), FileError> {
    // What a link leads to is changed, not the link.
    let path = &fs::canonicalize(path).map_err(|e| FileError::Io(path.into(), e))?;
    let _one = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let (old, text) = document(path, format)?;
    let refused = |why: String| FileError::NotInPlace(path.clone(), pointer.into(), why);
    let missing = || FileError::NothingThere(path.clone(), pointer.into());
    let value = match (format, value) {
        (FileFormat::Ini, Value::String(text)) => text.into(),
        (FileFormat::Ini, other) => other.to_string().into(),
        (_, value) => value,
    };
    if old.pointer(pointer).is_some_and(|old| same(old, &value)) {
        // It stays as somebody wrote it.
        return Ok(());
    }
    if format == FileFormat::Json
        && let Some(why) = json::loses(&text)
    {
        return Err(refused(format!("the rest of the file would not stay as it is: {why}")));
    }
    let wanted = with(old, pointer, value.clone()).ok_or_else(missing)?;
    let names = names(pointer);
    let ways = match format {
        FileFormat::Json => serde_json::to_string_pretty(&wanted)
            .map(|text| vec![text + "\n"])
            .map_err(|e| FileError::Malformed(path.clone(), e.to_string()))?,
        FileFormat::Yaml => yaml::ways(&text, &names, &value).map_err(refused)?,
        FileFormat::Toml => vec![toml::set(&text, &names, &value).map_err(refused)?],
        FileFormat::Ini => {
            let text = ini::set(&text, &names, value.as_str().unwrap_or_default()).map_err(refused)?;
            vec![text]
        }
    };
    let says = |text: &String| parse(text, format).is_ok_and(|read| same(&read, &wanted));
    let text = ways.into_iter().find(says).ok_or_else(|| {
        refused("it cannot be written there so that it is read as this, and all else as before".into())
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Nobody who may write there can have prepared it.
    let chance = RandomState::new().hash_one(std::process::id());
    let beside = path.with_file_name(format!(".{name}.{chance:016x}.homeostat"));
    let replaced = replace(path, &beside, &text);
    replaced.map_err(|e| FileError::Io(path.clone(), e))
}

/// The names along a JSON pointer (RFC 6901).
fn names(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect()
}

/// The document with another value at `pointer`.
fn with(mut document: Value, pointer: &str, value: Value) -> Option<Value> {
    if let Some(place) = document.pointer_mut(pointer) {
        *place = value;
    } else {
        let (parent, _) = pointer.rsplit_once('/')?;
        let name = names(pointer).pop()?;
        document.pointer_mut(parent)?.as_object_mut()?.insert(name, value);
    }
    Some(document)
}

/// Equal, whether a number is written `3` or `3.0`.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // Whole numbers are compared as such: as floating point, large ones that differ are the same.
        (Value::Number(a), Value::Number(b)) => {
            a == b || (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64()
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn replace(path: &Path, beside: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(beside)?;
    let replaced = write_and_rename(path, beside, file, text);
    if replaced.is_err() {
        let _ = fs::remove_file(beside);
    }
    replaced
}

fn write_and_rename(path: &Path, beside: &Path, mut file: File, text: &str) -> std::io::Result<()> {
    let about = fs::metadata(path)?;
    keep_owner(&file, &about)?;
    file.set_permissions(about.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(beside, path)?;
    match path.parent() {
        Some(dir) if cfg!(unix) => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

/// The file belongs to whom it belonged to before; who cannot see to that does not replace it.
#[cfg(unix)]
fn keep_owner(file: &File, about: &fs::Metadata) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let now = file.metadata()?;
    match (now.uid(), now.gid()) == (about.uid(), about.gid()) {
        true => Ok(()),
        false => std::os::unix::fs::fchown(file, Some(about.uid()), Some(about.gid())),
    }
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &fs::Metadata) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_changed_in_place_and_all_else_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.json");
        fs::write(&path, r#"{"z": 1, "limits": {"rate": 5}, "a": [1, 2.50]}"#).expect("written");
        write(&path, "/limits/rate", json!(7), FileFormat::Json).expect("set");
        write(&path, "/limits/burst", json!(9), FileFormat::Json).expect("added");
        assert_eq!(read(&path, "/limits", FileFormat::Json).expect("read"), json!({"rate": 7, "burst": 9}));
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.find("\"z\"") < text.find("\"a\""), "{text}");
        assert!(write(&path, "/none/there", json!(1), FileFormat::Json).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "nothing is left beside");
    }

    #[test]
    fn json_that_would_lose_something_elsewhere_is_not_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.json");
        for text in [r#"{"a": 1, "b": 123456789012345678901234567890}"#, r#"{"a": 1, "b": 1, "b": 2}"#] {
            fs::write(&path, text).expect("written");
            let refused = write(&path, "/a", json!(2), FileFormat::Json);
            assert!(refused.is_err_and(|e| e.to_string().contains("would not stay as it is")));
            assert_eq!(fs::read_to_string(&path).expect("text"), text);
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_by_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.yaml");
        let why = |pointer| read(&path, pointer, FileFormat::Yaml).expect_err("nothing").to_string();
        assert!(why("").contains("a.yaml"));
        fs::write(&path, "a: [1, 2\n").expect("written");
        assert!(why("").contains("not written as it should be"));
        fs::write(&path, "a: { b: 3 }\n").expect("written");
        assert_eq!(read(&path, "/a/b", FileFormat::Yaml).expect("read"), json!(3));
        assert!(why("/a/c").contains("nothing at `/a/c`"));
        assert!(read(dir.path(), "", FileFormat::Json).is_err(), "a directory");
    }

    #[test]
    fn what_would_change_anything_else_is_not_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.yaml");
        let yaml = "shared: &s 1\nalso: *s\nplain: word # kept\n";
        fs::write(&path, yaml).expect("written");
        let set = |pointer: &str, value: Value| write(&path, pointer, value, FileFormat::Yaml);
        assert!(set("/shared", json!(2)).is_err_and(|e| e.to_string().contains("as before")));
        assert_eq!(fs::read_to_string(&path).expect("text"), yaml);
        // A text that would be read as a number, or as the end of the value, gets quotes.
        for text in ["7", "true", "a: b", "x # y", "", "- a", "no"] {
            set("/plain", json!(text)).expect(text);
            assert_eq!(read(&path, "/plain", FileFormat::Yaml).expect("read"), json!(text));
            assert!(fs::read_to_string(&path).expect("text").ends_with(" # kept\n"));
        }
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "nothing is left beside");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let (path, link) = (dir.path().join("a.json"), dir.path().join("link.json"));
        fs::write(&path, "1").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("permissions");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        write(&link, "", json!(2), FileFormat::Json).expect("set");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(read(&path, "", FileFormat::Json).expect("read"), json!(2));
    }

    #[test]
    fn large_whole_numbers_that_differ_are_not_the_same() {
        assert!(same(&json!(3), &json!(3.0)) && !same(&json!(3), &json!(3.5)));
        assert!(!same(&json!(9_007_199_254_740_992_u64), &json!(9_007_199_254_740_993_u64)));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_keeps_its_owner_and_what_others_left_beside_it_is_not_touched() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().expect("a directory");
        let (path, victim) = (dir.path().join("a.json"), dir.path().join("victim"));
        fs::write(&path, "{\"rate\": 5}").expect("written");
        fs::write(&victim, "mine").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode");
        // Only who may give files away can see whether they are given back.
        let owner = std::os::unix::fs::chown(&path, Some(65534), Some(65534)).is_ok().then_some(65534);
        let beside = dir.path().join(".a.json.1.homeostat");
        std::os::unix::fs::symlink(&victim, &beside).expect("a link");
        assert!(replace(&path, &beside, "{}").is_err(), "what is there is not opened");
        write(&path, "/rate", json!(7), FileFormat::Json).expect("set");
        assert_eq!(fs::read_to_string(&victim).expect("text"), "mine");
        let about = fs::metadata(&path).expect("there");
        assert_eq!(about.mode() & 0o777, 0o640);
        assert!(owner.is_none_or(|owner| (about.uid(), about.gid()) == (owner, owner)));
    }
}
