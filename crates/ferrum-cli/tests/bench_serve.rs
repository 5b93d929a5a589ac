//! `ferrum bench serve` against `ferrum serve`, both as users start them.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use support::{Home, arg};

/// A server of a tiny model; dropping it ends it.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(home: &Home) -> Server {
        let model = home.model();
        let mut command = home.command(&["serve", arg(&model), "--port", "0", "--context", "512"]);
        command.env("FERRUM_API_KEY", "secret").stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let url = lines
            .map(|line| line.expect("UTF-8"))
            .find_map(|line| Some(line.strip_prefix("listening on ")?.to_string()))
            .expect("an address");
        Server { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bench(home: &Home, url: &str, key: &str, more: &[&str]) -> support::Run {
    let args = [&["bench", "serve", "--url", url, "-n", "6", "-c", "3", "--json"], more].concat();
    let output = home.command(&args).env("FERRUM_API_KEY", key).output().expect("it runs");
    support::Run::of(output)
}

#[test]
fn load_on_a_server_is_measured() {
    let home = Home::new();
    let server = Server::start(&home);
    let words = ["--prompt-words", "10", "--shared-words", "40", "--max-tokens", "5"];
    for kind in [&[][..], &["--chat"], &["--intruder-words", "90", "--intruder-after", "0"]] {
        let out = bench(&home, &server.url, "secret", &[&words, kind].concat()).ok();
        let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((report["completed"].as_u64(), report["failed"].as_u64()), (Some(6), Some(0)));
        assert_eq!(report["completion_tokens"], 30);
        let number = |path: &str| report.pointer(path).and_then(|v| v.as_f64()).unwrap_or(0.0);
        assert!(number("/prompt_tokens") > 6.0 * 50.0, "{out}");
        assert!(number("/cached_tokens") >= 32.0, "the shared words are found: {out}");
        assert!(number("/ttft_ms/p50") > 0.0 && number("/total_ms/max") >= number("/ttft_ms/max"));
        assert_eq!(number("/intruder_ttft_ms") > 0.0, kind.contains(&"--intruder-words"), "{out}");
    }
}

#[test]
fn refused_requests_are_errors() {
    let home = Home::new();
    let server = Server::start(&home);
    let wrong_key = bench(&home, &server.url, "guess", &[]);
    assert!(wrong_key.failed(1).contains("401"));
    let run = bench(&home, &server.url, "secret", &["--max-tokens", "100000"]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains("6 of the requests failed") && run.err.contains("status 400"));
    assert!(run.out.contains("\"failed\": 6"));
}
