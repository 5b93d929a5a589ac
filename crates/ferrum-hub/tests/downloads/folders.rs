//! Models that are folders: what is downloaded of a repository, and where it lies.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{
    COMMIT, FakeHub, HubFile, Notes, Reply, config, content, files_below, refuse,
};
use ferrum_hub::{Hub, HubConfig, HubError, ModelRef, Progress, Quiet, Result};
use serde_json::json;

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn parse(name: &str) -> ModelRef {
    ModelRef::parse(name).unwrap()
}

/// A sharded model with much that is not needed beside it.
fn sharded() -> Vec<HubFile> {
    let index =
        json!({ "metadata": {}, "weight_map": { "a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1] } });
    vec![
        HubFile::new(".gitattributes", "x", false),
        HubFile::new("README.md", "# model", false),
        HubFile::new("config.json", r#"{"model_type":"llama"}"#, false),
        HubFile::new("generation_config.json", "{}", false),
        HubFile::new("chat_template.jinja", "{{ x }}", false),
        HubFile::new("tokenizer.json", content(40_000), true),
        HubFile::new("tokenizer.model", content(1_000), true),
        HubFile::new("model.safetensors.index.json", index.to_string(), false),
        HubFile::new(SHARDS[0], content(200_000), true),
        HubFile::new(SHARDS[1], content(150_000), true),
        HubFile::new("pytorch_model.bin", content(10), true),
        HubFile::new("original/consolidated.safetensors", content(10), true),
    ]
}

const NEEDED: [&str; 7] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    SHARDS[0],
    SHARDS[1],
    "model.safetensors.index.json",
    "tokenizer.json",
];

/// A model of sentence-transformers.
fn encoder() -> Vec<HubFile> {
    vec![
        HubFile::new("config.json", "{}", false),
        HubFile::new("tokenizer.json", "{ }", false),
        HubFile::new("modules.json", "[]", false),
        HubFile::new("1_Pooling/config.json", r#"{"a":1}"#, false),
        HubFile::new("model.safetensors", content(5_000), true),
        HubFile::new("onnx/model.onnx", content(10), true),
    ]
}

fn cache(dir: &Path) -> PathBuf {
    dir.join("huggingface/hub/models--o--r")
}

fn fetch(config: &HubConfig, name: &str) -> Result<PathBuf> {
    Hub::new(config.clone()).fetch(&parse(name), &mut Quiet)
}

/// The names of the files in a folder, its folders' too.
fn names(folder: &Path) -> Vec<String> {
    files_below(folder)
}

#[test]
fn a_sharded_model_is_laid_out_as_other_tools_expect() {
    let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::new(sharded()));
    let config = config(dir.path(), &hub.api);
    let path = fetch(&config, "o/r").unwrap();
    assert_eq!(path, cache(dir.path()).join("snapshots").join(COMMIT));
    assert_eq!(names(&path), NEEDED);
    assert_eq!(fs::read_to_string(cache(dir.path()).join("refs/main")).unwrap(), COMMIT);
    for file in sharded().iter().filter(|f| NEEDED.contains(&f.name.as_str())) {
        let there = path.join(&file.name);
        assert_eq!(fs::read(&there).unwrap(), file.bytes, "{}", file.name);
        let target = fs::read_link(&there).unwrap();
        assert_eq!(target, PathBuf::from(format!("../../blobs/{}", file.digest())));
    }
    // What is here is found without the network, and again by the commit.
    let before = hub.api.seen("/").len();
    assert_eq!(fetch(&config, "o/r").unwrap(), path);
    assert_eq!(fetch(&config, &format!("o/r@{COMMIT}")).unwrap(), path);
    assert_eq!(hub.api.seen("/").len(), before);
    // A pull asks whether there is something newer, and downloads nothing twice.
    let stored = hub.storage.seen("/").len();
    assert_eq!(Hub::new(config).pull(&parse("o/r"), &mut Quiet).unwrap(), path);
    assert_eq!(hub.api.seen("/").len(), before + 1);
    assert_eq!(hub.storage.seen("/").len(), stored);
}

#[test]
fn modules_of_sentence_transformers_come_along() {
    let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::new(encoder()));
    let path = fetch(&config(dir.path(), &hub.api), "o/r@refs/pr/1").unwrap();
    let target = fs::read_link(path.join("1_Pooling/config.json")).unwrap();
    assert!(target.starts_with("../../../blobs"), "{target:?}");
    assert_eq!(fs::read(path.join("1_Pooling/config.json")).unwrap(), br#"{"a":1}"#);
    assert!(!path.join("onnx").exists());
    let reference = cache(dir.path()).join("refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
}

#[test]
fn each_file_is_resumed_where_it_was_broken_off() {
    let dir = tempfile::tempdir().unwrap();
    let last = format!("/{}", sharded()[9].digest());
    let path = last.clone();
    let broken = move |request: &crate::support::Request, nth| match request.path == path {
        true if nth == 0 => {
            let bytes = &sharded()[9].bytes;
            Some(Reply::ranged(request, bytes, "\"storage\"").cut(60_000))
        }
        true if nth < 3 => Some(Reply::new(503, "")),
        _ => None,
    };
    let hub = FakeHub::with(sharded(), |_, _| None, broken);
    let config = config(dir.path(), &hub.api);
    let error = fetch(&config, "o/r").unwrap_err();
    assert!(matches!(error, HubError::Status { status: 503, .. }), "{error}");
    let offline = HubConfig { offline: true, ..config.clone() };
    let error = fetch(&offline, "o/r").unwrap_err().to_string();
    assert!(error.contains(SHARDS[1]) && !error.contains(SHARDS[0]), "{error}");
    let models = Hub::new(config.clone()).installed().unwrap();
    assert_eq!((models[0].name.as_str(), models[0].partial, models.len()), ("o/r", true, 1));
    let stored = hub.storage.seen("/").len();
    let path = fetch(&config, "o/r").unwrap();
    assert_eq!(names(&path), NEEDED);
    let again: Vec<_> = hub.storage.seen("/").split_off(stored);
    assert_eq!(again.len(), 1, "only what was missing");
    assert_eq!(
        (again[0].path.as_str(), again[0].headers["range"].as_str()),
        (&*last, "bytes=60000-")
    );
}

#[test]
fn every_byte_is_verified() {
    for wrong in ["config.json", SHARDS[0]] {
        let dir = tempfile::tempdir().unwrap();
        let (files, mut others) = (sharded(), sharded());
        let at = files.iter().position(|f| f.name == wrong).unwrap();
        others[at].bytes[7] ^= 1;
        let (api, storage) = (files[at].clone(), files[at].clone());
        let bytes = others[at].bytes.clone();
        let sent = bytes.clone();
        let hub = FakeHub::with(
            files,
            move |r, _| {
                (!api.lfs && r.path.ends_with(&api.name)).then(|| Reply::new(200, bytes.clone()))
            },
            move |r, _| {
                (storage.lfs && r.path == format!("/{}", storage.digest()))
                    .then(|| Reply::new(200, sent.clone()))
            },
        );
        let error = fetch(&config(dir.path(), &hub.api), "o/r").unwrap_err();
        assert!(matches!(error, HubError::WrongHash { .. }), "{wrong}: {error}");
        assert!(!cache(dir.path()).join("snapshots").join(COMMIT).join(wrong).exists());
    }
}

#[test]
fn what_cannot_be_had_is_said_in_words() {
    let said = |status, code: &'static str, token: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        let hub = FakeHub::with(sharded(), move |_, _| Some(refuse(status, code)), |_, _| None);
        let mut config = config(dir.path(), &hub.api);
        config.hub_token = token.map(str::to_string);
        fetch(&config, "o/r").unwrap_err()
    };
    assert!(matches!(said(401, "", None), HubError::NoRepository { .. }));
    assert!(matches!(said(404, "RepoNotFound", Some("t")), HubError::NoRepository { .. }));
    assert!(matches!(said(401, "GatedRepo", None), HubError::Gated { .. }));
    let gated = said(403, "GatedRepo", Some("t")).to_string();
    assert!(gated.contains("/o/r,") && gated.contains("HF_TOKEN"), "{gated}");
    assert!(matches!(said(429, "", None), HubError::Status { status: 429, .. }));
    assert!(matches!(said(500, "", None), HubError::Status { status: 500, .. }));
    let dir = tempfile::tempdir().unwrap();
    let hub = FakeHub::new(sharded());
    let error = fetch(&config(dir.path(), &hub.api), "o/r@v9").unwrap_err();
    assert!(matches!(error, HubError::NoRevision { .. }), "{error}");
    let refused = FakeHub::with(
        sharded(),
        |_, _| {
            let mut reply = Reply::new(401, "");
            reply
                .headers
                .push(("X-Error-Message", "Invalid credentials in Authorization header".into()));
            Some(reply)
        },
        |_, _| None,
    );
    let mut config = config(dir.path(), &refused.api);
    config.hub_token = Some("hf_secret".into());
    let error = fetch(&config, "o/r").unwrap_err();
    assert!(matches!(error, HubError::BadToken { .. }), "{error}");
    assert!(!error.to_string().contains("hf_secret"));
}

#[test]
fn a_busy_hub_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let busy = |status| {
        move |r: &crate::support::Request, nth| {
            (nth < 2 && r.path.contains("/revision/")).then(|| Reply::new(status, ""))
        }
    };
    for status in [429, 502] {
        let hub = FakeHub::with(encoder(), busy(status), |_, _| None);
        let path = fetch(&config(dir.path(), &hub.api), "o/r").unwrap();
        assert!(path.join("model.safetensors").is_file());
        fs::remove_dir_all(cache(dir.path())).unwrap();
    }
}

#[test]
fn pickles_and_what_is_no_model_are_refused_before_anything_is_downloaded() {
    for (files, word) in [
        (vec!["config.json", "tokenizer.json", "pytorch_model.bin"], "pickle"),
        (vec!["config.json", "tokenizer.json", "tf_model.h5"], "tf_model.h5"),
        (vec!["config.json", "tokenizer.model", "model.safetensors"], "'tokenizer.json'"),
        (vec!["tokenizer.json", "model.safetensors"], "'config.json'"),
        (vec![], "no file"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let files = files.iter().map(|name| HubFile::new(name, *name, false)).collect();
        let hub = FakeHub::new(files);
        let error = fetch(&config(dir.path(), &hub.api), "o/r").unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(hub.api.seen("/").len(), 1);
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = json!({ "weight_map": { "a": "../../evil.safetensors" } }).to_string();
    let hub = FakeHub::new(vec![
        HubFile::new("config.json", "{}", false),
        HubFile::new("tokenizer.json", "{ }", false),
        HubFile::new("model.safetensors.index.json", index, false),
    ]);
    let error = fetch(&config(dir.path(), &hub.api), "o/r").unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
}

#[test]
fn offline_uses_what_is_here_and_names_what_is_not() {
    let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::new(encoder()));
    let online = config(dir.path(), &hub.api);
    let offline = HubConfig { offline: true, ..online.clone() };
    assert!(matches!(fetch(&offline, "o/r"), Err(HubError::Offline { .. })));
    assert!(matches!(fetch(&offline, "minilm"), Err(HubError::Offline { .. })));
    assert!(hub.api.seen("/").is_empty());
    let path = fetch(&online, "o/r").unwrap();
    let before = hub.api.seen("/").len();
    assert_eq!(fetch(&offline, "o/r").unwrap(), path);
    assert_eq!(Hub::new(offline.clone()).pull(&parse("o/r"), &mut Quiet).unwrap(), path);
    fs::remove_file(path.join("1_Pooling/config.json")).unwrap();
    let error = fetch(&offline, "o/r").unwrap_err();
    assert!(matches!(error, HubError::Incomplete { .. }), "{error}");
    assert!(error.to_string().contains("1_Pooling/config.json"), "{error}");
    assert_eq!(hub.api.seen("/").len(), before);
}

#[test]
fn a_cache_of_another_tool_is_completed_if_the_hub_can_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cache(dir.path());
    let write = |path: &str, bytes: &[u8]| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    // As where links cannot be made: the files themselves.
    write("refs/main", COMMIT.as_bytes());
    for file in encoder().iter().filter(|f| !f.name.contains("Pooling")) {
        write(&format!("snapshots/{COMMIT}/{}", file.name), &file.bytes);
    }
    let unreachable = FakeHub::with(encoder(), |_, _| Some(Reply::new(500, "")), |_, _| None);
    let mut notes = Notes::default();
    let config_at = |hub: &FakeHub| config(dir.path(), &hub.api);
    let path = Hub::new(config_at(&unreachable)).fetch(&parse("o/r"), &mut notes).unwrap();
    assert!(notes.0.iter().any(|note| note.contains("using what is here")), "{:?}", notes.0);
    // Or it does not show it any more.
    let gone = FakeHub::with(encoder(), |_, _| Some(refuse(404, "RepoNotFound")), |_, _| None);
    assert_eq!(fetch(&config_at(&gone), "o/r").unwrap(), path);
    let pulled = Hub::new(config_at(&gone)).pull(&parse("o/r"), &mut Quiet);
    assert!(matches!(pulled, Err(HubError::NoRepository { .. })));
    let hub = FakeHub::new(encoder());
    assert_eq!(fetch(&config_at(&hub), "o/r").unwrap(), path);
    assert!(path.join("1_Pooling/config.json").is_file());
    assert!(hub.storage.seen("/").is_empty(), "the weights were there");
    // Where the other tool noted what there is, nothing need be asked.
    fs::remove_dir_all(folder.join(".ferrum")).unwrap();
    let files: serde_json::Map<_, _> =
        encoder().iter().map(|f| (f.name.clone(), json!({ "size": 1, "blob_id": "x" }))).collect();
    let tree = json!({ "format_version": 1, "files": files });
    write(&format!("trees/{COMMIT}.json"), tree.to_string().as_bytes());
    let before = hub.api.seen("/").len();
    assert_eq!(fetch(&config_at(&hub), "o/r").unwrap(), path);
    assert_eq!(hub.api.seen("/").len(), before);
}

#[test]
fn a_mirror_that_states_no_hashes_is_asked_for_each_file() {
    let dir = tempfile::tempdir().unwrap();
    let bare = |r: &crate::support::Request, _| {
        let siblings: Vec<_> = encoder().iter().map(|f| json!({ "rfilename": f.name })).collect();
        let listing = json!({ "sha": COMMIT, "siblings": siblings });
        r.path.contains("/revision/").then(|| Reply::json(listing))
    };
    let hub = FakeHub::with(encoder(), bare, |_, _| None);
    let path = fetch(&config(dir.path(), &hub.api), "o/r").unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), content(5_000));
    let head = |r: &crate::support::Request| r.method == "HEAD";
    assert_eq!(hub.api.seen("/").iter().filter(|r| head(r)).count(), 5);
    assert!(!hub.storage.seen("/").iter().any(head), "the redirect is not followed");
}

#[test]
fn several_at_once_download_once() {
    let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::new(sharded()));
    let config = config(dir.path(), &hub.api);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(names(&fetch(&config, "o/r").unwrap()), NEEDED));
        }
    });
    assert_eq!(hub.storage.seen("/").len(), 3, "tokenizer.json and two shards");
}

#[test]
fn models_are_listed_and_removed_with_what_only_they_use() {
    let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::new(encoder()));
    let hub_here = Hub::new(config(dir.path(), &hub.api));
    hub_here.fetch(&parse("o/r"), &mut Quiet).unwrap();
    hub_here.fetch(&parse("o/r@refs/pr/1"), &mut Quiet).unwrap();
    // A second commit that shares the weights.
    let (folder, other) = (cache(dir.path()), "f".repeat(40));
    let second = folder.join("snapshots").join(&other);
    fs::create_dir_all(&second).unwrap();
    let weights = fs::read_link(folder.join("snapshots").join(COMMIT).join("model.safetensors"));
    std::os::unix::fs::symlink(weights.unwrap(), second.join("model.safetensors")).unwrap();
    let names_of = || -> Vec<String> {
        hub_here.installed().unwrap().into_iter().map(|model| model.name).collect()
    };
    assert_eq!(names_of(), ["o/r", "o/r@refs/pr/1"]);
    let small: usize = encoder().iter().take(4).map(|f| f.bytes.len()).sum();
    assert_eq!(hub_here.remove(&parse("o/r")).unwrap(), small as u64);
    assert!(second.join("model.safetensors").is_file());
    assert!(names_of().is_empty());
    assert_eq!(hub_here.remove(&parse("o/r")).unwrap(), 0);
    assert_eq!(hub_here.remove(&parse(&format!("o/r@{other}"))).unwrap(), 5_000);
    assert!(!folder.exists());
}

/// Sees one transfer over all files.
#[derive(Default)]
struct Bar {
    begun: Vec<(String, u64, u64)>,
    files: Vec<String>,
    last: u64,
}

impl Progress for Bar {
    fn note(&mut self, _line: &str) {}
    fn begin(&mut self, what: &str, total: u64, have: u64) {
        self.begun.push((what.to_string(), total, have));
        self.last = have;
    }
    fn file(&mut self, name: &str, index: usize, count: usize) {
        self.files.push(format!("{index}/{count} {name}"));
    }
    fn at(&mut self, have: u64) {
        assert!(have >= self.last, "backwards");
        self.last = have;
    }
    fn end(&mut self) {}
}

#[test]
fn progress_is_over_all_files() {
    let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::new(encoder()));
    let hub_here = Hub::new(config(dir.path(), &hub.api));
    let mut bar = Bar::default();
    hub_here.fetch(&parse("o/r"), &mut bar).unwrap();
    let total = encoder().iter().take(5).map(|f| f.bytes.len() as u64).sum();
    assert_eq!(bar.begun, [("o/r".to_string(), total, 0)]);
    assert_eq!((bar.last, bar.files.len()), (total, 5));
    assert_eq!(bar.files[4], "5/5 model.safetensors");
}

#[test]
fn a_model_too_large_for_the_disk_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let huge = |r: &crate::support::Request, _| {
        let file = |name: &str, size: u64| json!({ "rfilename": name, "lfs": { "sha256": "0".repeat(64), "size": size } });
        let files =
            [file("config.json", 1), file("tokenizer.json", 1), file("model.safetensors", 1 << 60)];
        let listing = json!({ "sha": COMMIT, "siblings": files });
        r.path.contains("/revision/").then(|| Reply::json(listing))
    };
    let hub = FakeHub::with(encoder(), huge, |_, _| None);
    let error = fetch(&config(dir.path(), &hub.api), "o/r").unwrap_err();
    assert!(matches!(error, HubError::NoSpace { .. }), "{error}");
    assert_eq!(hub.api.seen("/").len(), 1);
}
