//! Values in configuration files: read by pointer, and changed in place so that no reader ever sees half of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::manage::FileFormat;

/// The largest configuration file that is read, bytes.
const LARGEST: u64 = 8 << 20;

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
}

fn document(path: &Path, format: FileFormat) -> Result<Value, FileError> {
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
    let malformed = |why: String| FileError::Malformed(path.into(), why);
    match format {
        FileFormat::Json => serde_json::from_str(&text).map_err(|e| malformed(e.to_string())),
        FileFormat::Yaml => serde_saphyr::from_str(&text).map_err(|e| malformed(e.to_string())),
    }
}

/// The value at `pointer`. Blocks.
pub(super) fn read(path: &Path, pointer: &str, format: FileFormat) -> Result<Value, FileError> {
    let mut document = document(path, format)?;
    let found = document.pointer_mut(pointer).map(Value::take);
    found.ok_or_else(|| FileError::NothingThere(path.into(), pointer.into()))
}

/// Puts `value` at `pointer` of a JSON file: written beside, brought to the disk, then renamed. Its parent must be there; a last name that is not
/// there is added. Blocks.
pub(super) fn write(path: &Path, pointer: &str, value: Value) -> Result<(), FileError> {
    // What a link leads to is changed, not the link.
    let path = &fs::canonicalize(path).map_err(|e| FileError::Io(path.into(), e))?;
    let mut document = document(path, FileFormat::Json)?;
    if let Some(place) = document.pointer_mut(pointer) {
        *place = value;
    } else {
        let missing = || FileError::NothingThere(path.clone(), pointer.into());
        let (parent, name) = pointer.rsplit_once('/').ok_or_else(missing)?;
        let parent = document.pointer_mut(parent).and_then(Value::as_object_mut).ok_or_else(missing)?;
        parent.insert(name.replace("~1", "/").replace("~0", "~"), value);
    }
    let mut text = serde_json::to_string_pretty(&document)
        .map_err(|e| FileError::Malformed(path.clone(), e.to_string()))?;
    text.push('\n');
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.homeostat", std::process::id()));
    let replaced = replace(path, &beside, &text);
    if replaced.is_err() {
        let _ = fs::remove_file(&beside);
    }
    replaced.map_err(|e| FileError::Io(path.clone(), e))
}

fn replace(path: &Path, beside: &Path, text: &str) -> std::io::Result<()> {
    let permissions = fs::metadata(path)?.permissions();
    let mut file = File::create(beside)?;
    file.set_permissions(permissions)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(beside, path)?;
    match path.parent() {
        Some(dir) if cfg!(unix) => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
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
        write(&path, "/limits/rate", json!(7)).expect("set");
        write(&path, "/limits/burst", json!(9)).expect("added");
        assert_eq!(read(&path, "/limits", FileFormat::Json).expect("read"), json!({"rate": 7, "burst": 9}));
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.find("\"z\"") < text.find("\"a\""), "{text}");
        assert!(write(&path, "/none/there", json!(1)).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "nothing is left beside");
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

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let (path, link) = (dir.path().join("a.json"), dir.path().join("link.json"));
        fs::write(&path, "1").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("permissions");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        write(&link, "", json!(2)).expect("set");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(read(&path, "", FileFormat::Json).expect("read"), json!(2));
    }
}
