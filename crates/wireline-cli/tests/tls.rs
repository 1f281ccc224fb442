//! The program's TLS: a server with several certificates that wants its clients to have one, reads them again at
//! SIGHUP, and clients that have what it wants, or not.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A directory for one test's files, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wireline-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// `NAME.pem` and `NAME.key`, vouched for by `authority`.
    fn write_identity(&self, name: &str, subject: &str, authority: &Authority) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([subject.to_owned()]).unwrap();
        fs::write(self.0.join(format!("{name}.pem")), params.signed_by(&key, authority).unwrap().pem())
            .unwrap();
        fs::write(self.0.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn write_ca(&self, name: &str, authority: &Authority) {
        fs::write(self.0.join(name), authority.pem()).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn wireline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wireline"));
    command.env_remove("SSLKEYLOGFILE");
    command
}

/// `wireline serve`, and what it says.
struct Serving {
    child: Child,
    said: BufReader<ChildStderr>,
    port: u16,
}

impl Serving {
    fn start(args: &[&str]) -> Self {
        let mut command = wireline();
        command.args(["serve", "127.0.0.1:0"]).args(args).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Self { child, said, port: 0 };
        let line = serving.says("listening on");
        let port = line.split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap();
        serving.port = port.parse().unwrap();
        serving
    }

    /// The next line with these words.
    fn says(&mut self, words: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "{words:?} was not said, but {all}");
            if line.contains(words) {
                return line;
            }
            all += &line;
        }
    }

    fn hang_up(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// What `wireline connect` makes of it with one line to send.
    fn connect(&self, args: &[&str]) -> Output {
        self.connect_with(args, None)
    }

    fn connect_with(&self, args: &[&str], key_log: Option<&Path>) -> Output {
        let url = format!("wss://localhost:{}/", self.port);
        let mut command = wireline();
        command.args(["connect", &url]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(key_log) = key_log {
            command.env("SSLKEYLOGFILE", key_log);
        }
        let mut child = command.spawn().unwrap();
        // A client that is not let in may be gone before it reads.
        let _ = child.stdin.take().unwrap().write_all(b"My name is John\n");
        child.wait_with_output().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn assert_let_in(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"My name is John\n", "{said}");
}

#[track_caller]
fn assert_kept_out(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(words), "{said:?} should have {words:?}");
}

#[test]
fn a_server_wants_certificates_of_its_clients_and_has_several_itself() {
    let directory = Directory::new("several");
    let ca = authority("a");
    directory.write_ca("ca.pem", &ca);
    directory.write_identity("other", "other.example", &ca);
    directory.write_identity("server", "localhost", &ca);
    directory.write_identity("me", "me.example", &ca);
    directory.write_identity("stranger", "me.example", &authority("b"));
    let [ca, other, other_key, cert, key, me, my_key, stranger, stranger_key] = [
        "ca.pem",
        "other.pem",
        "other.key",
        "server.pem",
        "server.key",
        "me.pem",
        "me.key",
        "stranger.pem",
        "stranger.key",
    ]
    .map(|name| directory.path(name));
    let server = Serving::start(&[
        "--tls-cert",
        &other,
        "--tls-key",
        &other_key,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--client-ca",
        &ca,
    ]);
    assert_let_in(&server.connect(&["--ca", &ca, "--cert", &me, "--key", &my_key]));
    assert_let_in(&server.connect(&["--ca", &ca, "--cert", &me, "--key", &my_key, "--http2"]));
    assert_kept_out(&server.connect(&["--ca", &ca]), "lets in only clients that have a certificate");
    let strangers = server.connect(&["--ca", &ca, "--cert", &stranger, "--key", &stranger_key]);
    assert_kept_out(&strangers, "does not accept this client's certificate");
    assert_kept_out(
        &server.connect(&["--ca", &ca, "--cert", &me, "--key", &stranger_key]),
        "another certificate's",
    );

    let unpaired =
        wireline().args(["serve", "127.0.0.1:0", "--tls-cert", &cert, "--tls-cert", &other]).output();
    assert!(!unpaired.unwrap().status.success());
    let unpaired = ["--tls-cert", &cert, "--tls-cert", &other, "--tls-key", &key];
    let unpaired = wireline().args(["serve", "127.0.0.1:0"]).args(unpaired).output().unwrap();
    let said = String::from_utf8_lossy(&unpaired.stderr);
    assert!(!unpaired.status.success() && said.contains("here are 2 and 1"), "{said}");
}

#[test]
fn sighup_has_certificates_read_again_and_says_what_came_of_it() {
    let directory = Directory::new("sighup");
    let (old, new) = (authority("old"), authority("new"));
    directory.write_ca("old.pem", &old);
    directory.write_ca("new.pem", &new);
    directory.write_identity("server", "localhost", &old);
    let [old, new_ca, cert, key] =
        ["old.pem", "new.pem", "server.pem", "server.key"].map(|name| directory.path(name));
    let mut server = Serving::start(&["--tls-cert", &cert, "--tls-key", &key]);
    assert_let_in(&server.connect(&["--ca", &old]));
    assert_kept_out(&server.connect(&["--ca", &new_ca]), "give a CA file");

    directory.write_identity("server", "localhost", &new);
    server.hang_up();
    server.says("read certificates, keys and client CAs again");
    assert_let_in(&server.connect(&["--ca", &new_ca]));
    assert_kept_out(&server.connect(&["--ca", &old]), "give a CA file");

    fs::write(&key, "no key").unwrap();
    server.hang_up();
    let said = server.says("the certificates of before stay");
    assert!(said.contains("server.key"), "{said}");
    assert_let_in(&server.connect(&["--ca", &new_ca]));
}

#[test]
fn insecure_is_let_in_anywhere_and_warned_and_a_key_log_is_told() {
    let directory = Directory::new("insecure");
    directory.write_identity("server", "other.example", &authority("a"));
    let [cert, key] = ["server.pem", "server.key"].map(|name| directory.path(name));
    let server = Serving::start(&["--tls-cert", &cert, "--tls-key", &key]);
    let log = directory.0.join("keys.log");
    let insecure = server.connect_with(&["--insecure"], Some(&log));
    assert_let_in(&insecure);
    let said = String::from_utf8_lossy(&insecure.stderr);
    assert!(
        said.contains("--insecure: nobody knows who the server is") && said.contains("SSLKEYLOGFILE"),
        "{said}"
    );
    assert!(fs::read_to_string(log).unwrap().contains("CLIENT_TRAFFIC_SECRET_0 "));
}
