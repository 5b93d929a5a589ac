//! Downloads from a hub that misbehaves in every way we could think of.

use std::fs;
use std::time::Duration;

use crate::support::{Notes, Reply, Server, config, content, entry, files_below, listing};
use ferrum_hub::hash::Sha256;
use ferrum_hub::{Hub, HubError, ModelRef, Quiet};

const FILE: &str = "/o/r/resolve/c0ffee0123456789c0ffee0123456789c0ffee01/m-Q8_0.gguf";

/// A hub whose only model is `bytes`, sent by `file` (request, how often asked before).
fn hub_with(
    bytes: &[u8],
    file: impl Fn(&crate::support::Request, usize) -> Reply + Send + Sync + 'static,
) -> Server {
    let bytes = bytes.to_vec();
    Server::start(move |request, nth| match request.path.as_str() {
        "/api/models/o/r/revision/main?blobs=true" => {
            listing(&[("m-Q8_0.gguf", &bytes), ("README.md", b"x")])
        }
        FILE => file(request, nth),
        _ => Reply::new(404, ""),
    })
}

fn model() -> ModelRef {
    ModelRef::parse("o/r:Q8_0").unwrap()
}

/// The names that a whole model has in the cache: its blob and the link to it.
fn whole(bytes: &[u8]) -> Vec<String> {
    let mut names = vec![Sha256::of(bytes).to_string(), "m-Q8_0.gguf".to_string()];
    names.sort();
    names
}

/// Where its download lies.
fn part(dir: &std::path::Path, bytes: &[u8]) -> std::path::PathBuf {
    let blobs = dir.join("huggingface/hub/models--o--r/blobs");
    blobs.join(format!("{}.incomplete", Sha256::of(bytes)))
}

#[test]
fn a_model_is_downloaded_verified_and_then_found_offline() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(300_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |r, _| Reply::ranged(r, &body, "\"1\""));
    let hub = Hub::new(config(dir.path(), &server));
    assert_eq!(hub.local(&model()).unwrap(), None);
    let path = hub.fetch(&model(), &mut Quiet).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(files_below(dir.path()), whole(&bytes));
    let before = server.seen("/").len();
    assert_eq!(hub.fetch(&model(), &mut Quiet).unwrap(), path);
    assert_eq!(server.seen("/").len(), before, "the second time needs no network");
    let installed = hub.installed().unwrap();
    assert_eq!((installed[0].name.as_str(), installed[0].partial), ("o/r/m-Q8_0.gguf", false));
    assert_eq!(hub.remove(&model()).unwrap(), bytes.len() as u64);
    assert!(hub.installed().unwrap().is_empty() && files_below(dir.path()).is_empty());
    assert_eq!(hub.remove(&model()).unwrap(), 0);
}

#[test]
fn a_cut_connection_is_resumed() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(300_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |r, nth| match nth {
        0 | 1 => Reply::ranged(r, &body, "\"1\"").cut(70_000),
        _ => Reply::ranged(r, &body, "\"1\""),
    });
    let hub = Hub::new(config(dir.path(), &server));
    let path = hub.fetch(&model(), &mut Quiet).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes);
    let ranges: Vec<_> =
        server.seen(FILE).iter().map(|r| r.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=70000-".into()), Some("bytes=140000-".into())]);
}

#[test]
fn a_later_run_resumes_what_an_earlier_one_left() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(200_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |r, nth| match nth {
        0 => Reply::ranged(r, &body, "\"v1\"").cut(50_000),
        1..=2 => Reply::new(503, ""),
        _ => Reply::ranged(r, &body, "\"v1\""),
    });
    let hub = Hub::new(config(dir.path(), &server));
    assert!(matches!(hub.fetch(&model(), &mut Quiet), Err(HubError::Status { status: 503, .. })));
    assert_eq!(fs::metadata(part(dir.path(), &bytes)).unwrap().len(), 50_000);
    assert_eq!(files_below(dir.path()).len(), 1);
    assert!(hub.installed().unwrap()[0].partial);
    let path = hub.fetch(&model(), &mut Quiet).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes);
    let last = server.seen(FILE).pop().unwrap();
    assert_eq!(last.headers["range"], "bytes=50000-");
    assert_eq!(files_below(dir.path()), whole(&bytes));
}

/// In our own store a part lies under the file's name, which does not say which bytes it has.
#[test]
fn a_part_of_another_file_is_not_continued() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(100_000));
    let body = bytes.clone();
    let server = Server::start(move |r, _| Reply::ranged(r, &body, "\"1\""));
    let folder = dir.path().join("models/o/r");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.gguf.part"), [7; 5000]).unwrap();
    let sidecar = serde_json::json!({
        "url": "http://elsewhere/x", "size": 100_000, "sha256": "00".repeat(32), "etag": null
    });
    fs::write(folder.join("m.gguf.part.json"), sidecar.to_string()).unwrap();
    let hub = Hub::new(config(dir.path(), &server));
    let model = ModelRef::Catalogue(entry(&bytes, &[]));
    assert_eq!(fs::read(hub.fetch(&model, &mut Quiet).unwrap()).unwrap(), bytes);
    assert!(!server.seen("/o/r/resolve/main/m.gguf")[0].headers.contains_key("range"));
}

#[test]
fn damaged_older_bytes_are_downloaded_anew() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(100_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |r, nth| match nth {
        0 => Reply::ranged(r, &body, "\"1\"").cut(60_000),
        1..=2 => Reply::new(500, ""),
        _ => Reply::ranged(r, &body, "\"1\""),
    });
    let hub = Hub::new(config(dir.path(), &server));
    hub.fetch(&model(), &mut Quiet).unwrap_err();
    let part = part(dir.path(), &bytes);
    let mut damaged = fs::read(&part).unwrap();
    damaged[100] ^= 1;
    fs::write(&part, damaged).unwrap();
    assert_eq!(fs::read(hub.fetch(&model(), &mut Quiet).unwrap()).unwrap(), bytes);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(200_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |_, nth| match nth {
        0 => Reply::new(200, body.clone()).cut(50_000),
        _ => Reply::new(200, body.clone()),
    });
    let hub = Hub::new(config(dir.path(), &server));
    assert_eq!(fs::read(hub.fetch(&model(), &mut Quiet).unwrap()).unwrap(), bytes);
    assert_eq!(server.seen(FILE).len(), 2);
}

#[test]
fn a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(200_000));
    let (new, mut old) = (bytes.clone(), bytes.clone());
    old.reverse();
    let server = hub_with(&bytes, move |r, nth| match nth {
        0 => Reply::ranged(r, &old, "\"old\"").cut(50_000),
        _ => Reply::ranged(r, &new, "\"new\""), // If-Range does not match: the whole file
    });
    let hub = Hub::new(config(dir.path(), &server));
    assert_eq!(fs::read(hub.fetch(&model(), &mut Quiet).unwrap()).unwrap(), bytes);
}

#[test]
fn the_wrong_range_is_not_written() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(200_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |r, nth| match nth {
        0 => Reply::ranged(r, &body, "\"1\"").cut(50_000),
        1 => {
            let mut reply = Reply::new(206, &body[10..]);
            reply.headers.push(("Content-Range", "bytes 10-199999/200000".into()));
            reply
        }
        _ => Reply::ranged(r, &body, "\"1\""),
    });
    let hub = Hub::new(config(dir.path(), &server));
    assert_eq!(fs::read(hub.fetch(&model(), &mut Quiet).unwrap()).unwrap(), bytes);
}

#[test]
fn a_connection_that_always_breaks_at_one_place_is_given_up() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(200_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |_, _| Reply::new(200, body.clone()).cut(50_000));
    let hub = Hub::new(config(dir.path(), &server));
    let error = hub.fetch(&model(), &mut Quiet).unwrap_err();
    assert!(matches!(error, HubError::Transfer { .. }), "{error}");
    assert!(server.seen(FILE).len() <= 4);
}

#[test]
fn a_stalled_connection_times_out_and_resumes() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(200_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |r, nth| {
        let mut reply = Reply::ranged(r, &body, "\"1\"");
        if nth == 0 {
            (reply.cut, reply.stall) = (Some(50_000), Duration::from_secs(30));
        }
        reply
    });
    let hub = Hub::new(config(dir.path(), &server));
    assert_eq!(fs::read(hub.fetch(&model(), &mut Quiet).unwrap()).unwrap(), bytes);
    assert_eq!(server.seen(FILE)[1].headers["range"], "bytes=50000-");
}

#[test]
fn wrong_bytes_are_refused_and_leave_nothing() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(100_000));
    let mut wrong = bytes.clone();
    wrong[99_999] ^= 1;
    let server = hub_with(&bytes, move |r, _| Reply::ranged(r, &wrong, "\"1\""));
    let hub = Hub::new(config(dir.path(), &server));
    let error = hub.fetch(&model(), &mut Quiet).unwrap_err();
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    assert!(files_below(dir.path()).is_empty());
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let bytes = content(100_000);
    let mut longer = bytes.clone();
    longer.push(0);
    let claims_less = Reply { claimed: Some(99_999), ..Reply::new(200, bytes.clone()) };
    let shorter = Reply::new(200, &bytes[..50_000]);
    for reply in [Reply::new(200, longer), shorter, claims_less] {
        let dir = tempfile::tempdir().unwrap();
        let server = hub_with(&bytes, move |_, _| reply.clone());
        let hub = Hub::new(config(dir.path(), &server));
        let error = hub.fetch(&model(), &mut Quiet).unwrap_err();
        assert!(matches!(error, HubError::WrongSize { expected: 100_000, .. }), "{error}");
        assert!(files_below(dir.path()).is_empty());
    }
}

#[test]
fn more_bytes_than_announced_are_not_written() {
    // Without Content-Length the body ends with the connection, whenever that is.
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(100_000));
    let mut chunked = b"20000\r\n".to_vec();
    chunked.extend(content(0x20000));
    chunked.extend(b"\r\n0\r\n\r\n");
    let server = hub_with(&bytes, move |_, _| {
        let mut reply = Reply::new(200, chunked.clone());
        reply.headers.push(("Transfer-Encoding", "chunked".into()));
        reply
    });
    let hub = Hub::new(config(dir.path(), &server));
    let error = hub.fetch(&model(), &mut Quiet).unwrap_err();
    assert!(matches!(error, HubError::WrongSize { .. }), "{error}");
    assert!(files_below(dir.path()).is_empty());
}

#[test]
fn names_that_leave_the_store_are_refused() {
    for name in ["../../evil-Q8_0.gguf", "/tmp/evil-Q8_0.gguf", "a/../../evil-Q8_0.gguf"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(move |_, _| listing(&[(name, b"x")]));
        let hub = Hub::new(config(dir.path(), &server));
        let error = hub.fetch(&model(), &mut Quiet).unwrap_err();
        assert!(matches!(error, HubError::BadFileName { .. }), "{error}");
        assert!(files_below(dir.path()).is_empty());
    }
}

#[test]
fn what_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = hub_with(b"x", |_, _| Reply::new(404, ""));
    let hub = Hub::new(config(dir.path(), &server));
    let error = |name: &str| {
        let reference = ModelRef::parse(name).unwrap();
        hub.fetch(&reference, &mut Quiet).unwrap_err().to_string()
    };
    assert!(error("o/r:Q4_0").contains("it has: m-Q8_0"), "{}", error("o/r:Q4_0"));
    assert!(error("o/other").contains("no repository o/other"), "{}", error("o/other"));
    assert!(error("./missing.gguf").contains("no file"));
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(1000));
    let body = bytes.clone();
    let storage = Server::start(move |r, _| Reply::ranged(r, &body, "\"1\""));
    // Another name of this machine, so that it is another host.
    let target = format!("{}/blob", storage.url.replace("127.0.0.1", "localhost"));
    let server = hub_with(&bytes, move |_, _| {
        let mut reply = Reply::new(302, "");
        reply.headers.push(("Location", target.clone()));
        reply
    });
    let mut config = config(dir.path(), &server);
    config.hub_token = Some("hf_secret".into());
    let hub = Hub::new(config);
    hub.fetch(&model(), &mut Quiet).unwrap();
    for request in server.seen("/") {
        assert_eq!(request.headers["authorization"], "Bearer hf_secret");
    }
    let blob = &storage.seen("/blob")[0];
    assert!(!blob.headers.contains_key("authorization"));
}

#[test]
fn a_gated_repository_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Reply::new(401, ""));
    let error = Hub::new(config(dir.path(), &server)).fetch(&model(), &mut Quiet).unwrap_err();
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
}

#[test]
fn all_parts_of_a_split_model_come() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    let parts = [content(5000), content(7000)];
    let sent = parts.clone();
    let server = Server::start(move |r, _| match names.iter().position(|n| r.path.ends_with(n)) {
        Some(part) => Reply::ranged(r, &sent[part], "\"1\""),
        None => listing(&[(names[1], &sent[1]), (names[0], &sent[0])]),
    });
    let hub = Hub::new(config(dir.path(), &server));
    let first = hub.fetch(&model(), &mut Quiet).unwrap();
    assert!(first.ends_with(names[0]));
    for (name, part) in names.iter().zip(&parts) {
        assert_eq!(&fs::read(first.with_file_name(name)).unwrap(), part);
    }
    assert_eq!(hub.remove(&model()).unwrap(), 12_000);
}

#[test]
fn processes_at_once_download_once() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(300_000));
    let body = bytes.clone();
    let server = hub_with(&bytes, move |r, _| {
        let mut reply = Reply::ranged(r, &body, "\"1\"");
        reply.stall = Duration::from_millis(100);
        reply
    });
    std::thread::scope(|scope| {
        let fetch = || {
            // Each with its own handles, as in processes of their own.
            let hub = Hub::new(config(dir.path(), &server));
            let mut notes = Notes::default();
            let path = hub.fetch(&model(), &mut notes).unwrap();
            assert_eq!(fs::read(path).unwrap(), bytes);
        };
        (0..4).for_each(|_| drop(scope.spawn(fetch)));
    });
    assert_eq!(server.seen(FILE).len(), 1);
    assert_eq!(files_below(dir.path()), whole(&bytes));
}

#[test]
fn files_that_an_earlier_version_downloaded_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Reply::new(500, ""));
    let folder = dir.path().join("models/o/r");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m-Q8_0.gguf"), b"GGUF").unwrap();
    let hub = Hub::new(config(dir.path(), &server));
    for name in ["o/r:Q8_0", "o/r", "o/r/m-Q8_0.gguf", "o/r@main"] {
        let path = hub.fetch(&ModelRef::parse(name).unwrap(), &mut Quiet).unwrap();
        assert_eq!(path, folder.join("m-Q8_0.gguf"));
    }
    assert!(server.seen("/").is_empty());
    // A pull asks for what is newer, and makes do with the old.
    assert_eq!(hub.pull(&model(), &mut Quiet).unwrap(), folder.join("m-Q8_0.gguf"));
    assert_eq!(hub.installed().unwrap()[0].name, "o/r/m-Q8_0.gguf");
    assert_eq!(hub.remove(&model()).unwrap(), 4);
    assert!(hub.installed().unwrap().is_empty());
}
