//! What a standby server writes in place of the owner: noted, listed, asked for at the owner, settled.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use hydra_core::{
    Batch, Engine, EngineOptions, ErrorCode, Expiry, FolderCount, FolderId, FolderSet, MAX_HOLDS_FILES, Op, Takeover,
    TakeoverFile, folder_of, swamp_dir,
};

use crate::common::{chunks, json, name, options, put, sync};

const S: &str = "users/profiles/alice";

fn folder() -> FolderId {
    folder_of(&name(S), FolderCount::DEFAULT)
}

fn standby_options(dir: &Path, write_interval: Duration) -> EngineOptions {
    let mut options = options(dir, "s2", write_interval);
    options.standby = FolderCount::DEFAULT.all();
    options
}

/// The server that keeps copies of all folders.
fn standby(dir: &Path) -> Engine {
    Engine::open(standby_options(dir, Duration::ZERO)).unwrap()
}

/// The server that owns them.
fn owner(dir: &Path) -> Engine {
    let mut options = options(dir, "s1", Duration::ZERO);
    options.copied = true;
    Engine::open(options).unwrap()
}

fn notes_file(dir: &Path) -> std::path::PathBuf {
    dir.join(format!(".hydra/takeover/{:05}", folder().get()))
}

fn takeover(engine: &Engine) -> Takeover {
    engine.takeover(folder()).unwrap()
}

fn write_in_buffer(engine: &Engine, key: &str) {
    let op = Op::Put { key: key.into(), value: json("1"), expiry: Expiry::Never, condition: Default::default() };
    engine.batch(&name(S), Batch::of(op)).unwrap();
}

#[test]
fn an_owner_notes_nothing_and_a_read_notes_nothing() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (owner(a.path()), standby(b.path()));
    put(&one, S, "k", "1");
    sync(a.path(), b.path());
    assert!(two.get(&name(S), "k").unwrap().is_some());
    for engine in [&one, &two] {
        assert_eq!((engine.takeover_count(folder()), takeover(engine).count), (0, 0));
    }
    assert!(!a.path().join(".hydra/takeover").exists() && !b.path().join(".hydra/takeover").exists());
}

#[test]
fn files_are_noted_once_listed_with_their_length_and_settled_when_the_owner_has_them() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (owner(a.path()), standby(b.path()));
    for value in ["1", "2", "3"] {
        put(&two, S, "k", value);
    }
    let notes = std::fs::read_to_string(notes_file(b.path())).unwrap();
    assert_eq!(notes.lines().count(), 1, "one file, one note: {notes}");

    let listed = takeover(&two);
    let chunk = chunks(b.path()).pop().unwrap();
    let bytes = std::fs::metadata(&chunk).unwrap().len();
    let file = chunk.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(listed.files, [TakeoverFile { swamp: name(S), file, bytes }]);
    assert_eq!((listed.count, two.takeover_count(folder())), (1, 1));

    let missing = one.holds(folder(), &listed.files).unwrap();
    assert_eq!((missing.len(), missing[0].held), (1, None));
    let copy = a.path().join(chunk.strip_prefix(b.path()).unwrap());
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::fs::write(&copy, &std::fs::read(&chunk).unwrap()[..bytes as usize - 1]).unwrap();
    let missing = one.holds(folder(), &listed.files).unwrap();
    assert_eq!((missing[0].held, &missing[0].wanted), (Some(bytes - 1), &listed.files[0]));
    sync(b.path(), a.path());
    assert_eq!(one.holds(folder(), &listed.files).unwrap(), []);

    two.settle(folder(), &listed.version).unwrap();
    assert_eq!((two.takeover_count(folder()), takeover(&two).count), (0, 0));
    assert!(!notes_file(b.path()).exists());
    two.settle(folder(), &listed.version).expect("settling twice is the same as once");
    two.close().unwrap();
    assert_eq!(takeover(&standby(b.path())).count, 0, "settled for good");
}

#[test]
fn a_chunk_that_is_gone_on_with_is_noted_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = standby(dir.path());
    put(&engine, S, "k", "1");
    engine.settle(folder(), &takeover(&engine).version).unwrap();
    put(&engine, S, "k", "2");
    assert_eq!(chunks(dir.path()).len(), 1, "it is the same chunk");
    assert_eq!(engine.takeover_count(folder()), 1);
    assert!(notes_file(dir.path()).exists());
}

#[test]
fn what_was_written_since_the_listing_cannot_be_settled() {
    for interval in [Duration::ZERO, Duration::from_secs(3600)] {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(standby_options(dir.path(), interval)).unwrap();
        write_in_buffer(&engine, "a");
        let listed = takeover(&engine);
        assert_eq!(listed.count, 1, "a listing flushes what was acknowledged");
        write_in_buffer(&engine, "b");
        let refused = engine.settle(folder(), &listed.version).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::VersionMismatch);
        assert_eq!(takeover(&engine).count, 1);
        engine.settle(folder(), &takeover(&engine).version).unwrap();
    }
}

#[test]
fn a_buffered_write_is_noted_when_it_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(standby_options(dir.path(), Duration::from_secs(3600))).unwrap();
    write_in_buffer(&engine, "a");
    assert_eq!((chunks(dir.path()).len(), engine.takeover_count(folder())), (0, 0));
    engine.flush(None).unwrap();
    assert_eq!((chunks(dir.path()).len(), engine.takeover_count(folder())), (1, 1));
}

#[test]
fn notes_survive_a_restart_and_those_of_files_that_are_gone_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let engine = standby(dir.path());
    put(&engine, S, "k", "1");
    engine.close().unwrap();
    let engine = standby(dir.path());
    put(&engine, S, "k", "2");
    let listed = takeover(&engine);
    assert_eq!((listed.count, engine.takeover_count(folder())), (2, 2), "one file of each process");
    let first = &listed.files[0].file;
    engine.close().unwrap();
    let gone = chunks(dir.path()).into_iter().find(|path| path.ends_with(first)).unwrap();
    std::fs::remove_file(gone).unwrap();

    let engine = standby(dir.path());
    assert_eq!(engine.takeover_count(folder()), 2, "nobody has looked yet");
    assert_eq!((takeover(&engine).count, engine.takeover_count(folder())), (1, 1));
    engine.close().unwrap();
    chunks(dir.path()).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let engine = standby(dir.path());
    assert_eq!((takeover(&engine).count, engine.takeover_count(folder())), (0, 0));
    assert!(!notes_file(dir.path()).exists());
}

#[test]
fn a_torn_last_line_is_passed_over_and_the_next_note_does_not_hang_on_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = standby(dir.path());
    put(&engine, S, "k", "1");
    engine.close().unwrap();
    let whole = std::fs::read_to_string(notes_file(dir.path())).unwrap();
    for tail in [&whole[..20], whole.trim_end(), "\0\0\0\0"] {
        std::fs::write(notes_file(dir.path()), format!("{whole}{tail}")).unwrap();
        let engine = standby(dir.path());
        let before = takeover(&engine).count;
        put(&engine, S, "k", "2");
        engine.close().unwrap();
        let engine = standby(dir.path());
        assert_eq!(takeover(&engine).count, before + 1, "{tail:?}");
        engine.close().unwrap();
    }
}

#[test]
fn damaged_notes_become_every_file_this_server_wrote_in_the_folder() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = owner(a.path());
    put(&one, S, "k", "1");
    sync(a.path(), b.path());
    let engine = standby(b.path());
    put(&engine, S, "k", "2");
    engine.settle(folder(), &takeover(&engine).version).unwrap();
    engine.close().unwrap();
    let engine = standby(b.path());
    put(&engine, S, "k", "3");
    let noted = takeover(&engine).files;
    engine.close().unwrap();
    let mut notes = std::fs::read(notes_file(b.path())).unwrap();
    notes[12] ^= 1;
    std::fs::write(notes_file(b.path()), notes).unwrap();
    let engine = standby(b.path());
    let found = takeover(&engine);
    assert_eq!(found.count, 2, "the settled file, too, and none of the owner's");
    assert!(found.files.iter().any(|file| file.file == noted[0].file));
    put(&engine, S, "k", "4");
    engine.close().unwrap();
    assert_eq!(takeover(&standby(b.path())).count, 3, "the notes are whole again");
}

#[test]
fn holds_takes_only_chunks_of_swamps_of_the_folder_and_so_many() {
    let dir = tempfile::tempdir().unwrap();
    let engine = owner(dir.path());
    let chunk = "s2-000000000002d-0001.hyl";
    let file = |swamp: &str, file: &str| TakeoverFile { swamp: name(swamp), file: file.into(), bytes: 0 };
    let elsewhere = ["a/b/c", "a/b/d"].into_iter().find(|text| engine.folder_of(&name(text)) != folder()).unwrap();
    for bad in [
        file(elsewhere, chunk),
        file(S, "../../HYDRA"),
        file(S, ".."),
        file(S, ""),
        file(S, "s2-000000000002d-0001.hyl.tmp"),
    ] {
        let refused = engine.holds(folder(), &[file(S, chunk), bad.clone()]).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidBody, "{bad:?}");
        assert!(refused.detail().starts_with("files[1]."), "{refused}");
    }
    let most = vec![file(S, chunk); MAX_HOLDS_FILES];
    assert_eq!(engine.holds(folder(), &most).unwrap().len(), MAX_HOLDS_FILES);
    let more = [most, vec![file(S, chunk)]].concat();
    assert_eq!(engine.holds(folder(), &more).unwrap_err().code(), ErrorCode::InvalidBody);
    assert_eq!(chunks(dir.path()).len(), 0, "asking creates nothing");
}

#[test]
fn a_snapshot_is_noted_as_a_log_is() {
    let dir = tempfile::tempdir().unwrap();
    let engine = standby(dir.path());
    put(&engine, S, "k", "1");
    chunks(dir.path()).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    put(&engine, S, "l", "1"); // what the removed file held is written again, as a snapshot
    let files: Vec<String> = takeover(&engine).files.into_iter().map(|file| file.file).collect();
    assert!(files.iter().any(|file| file.ends_with(".hys")), "{files:?}");
    assert_eq!(files.len(), chunks(dir.path()).len());
}

#[test]
fn settling_never_loses_the_note_of_a_write_that_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let engine = standby(dir.path());
    let only: FolderSet = [folder()].into_iter().collect();
    let names: Vec<_> = name(S).in_folders(&only, FolderCount::DEFAULT).take(4).collect();
    let write = |swamp| {
        for i in 0..150 {
            engine.put(swamp, "k", json(&i.to_string())).unwrap();
            if i % 10 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    };
    let path = |file: &TakeoverFile| dir.path().join(swamp_dir(folder(), &file.swamp)).join(&file.file);
    let mut held = HashMap::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = names.iter().map(|swamp| scope.spawn(|| write(swamp))).collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let listed = takeover(&engine);
            if listed.count > 0 && engine.settle(folder(), &listed.version).is_ok() {
                held.extend(listed.files.iter().map(|file| (path(file), file.bytes)));
            }
        }
    });
    assert!(!held.is_empty(), "it was settled in between");
    // What was listed when it was settled is what the owner holds; a file that is longer has to be noted.
    let noted: Vec<_> = takeover(&engine).files.iter().map(path).collect();
    for chunk in chunks(dir.path()) {
        let length = std::fs::metadata(&chunk).unwrap().len();
        assert!(noted.contains(&chunk) || held.get(&chunk) == Some(&length), "{chunk:?} is longer than settled");
    }
}
