//! RELP over TCP and TLS: whatever happens to rsyslog, everything arrives.

use agentguard_daemon::sink::{
    Progress,
    relp::{Relp, RelpSettings},
};

use crate::{
    certificates,
    drive::{Fault, RECORDS, Transport, drive_through, records},
    server::{Kind, Server},
};

const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Stall, Fault::Kill, Fault::Kill];

fn relp(settings: &str) -> Transport {
    let settings: RelpSettings = toml::from_str(settings).unwrap();
    Transport::Relp(Relp::new(settings))
}

/// Nothing is missing. Twice arrives at most what was on its way when a connection ended.
async fn assert_nothing_lost(settings: impl Fn(&Server) -> String) {
    let mut server = Server::start(Kind::Rsyslog);
    let records = records(1, RECORDS);
    let mut transport = relp(&settings(&server));
    let passage = drive_through(&mut transport, &records, &mut server.program, &FAULTS).await;
    let arrival = server.arrival(&records);
    println!(
        "{} missing, {} twice, {} calls dropped, errors: {:?}",
        arrival.missing.len(),
        arrival.duplicates,
        passage.dropped_calls,
        passage.errors
    );
    assert_eq!(arrival.missing, Vec::<u64>::new());
    assert!(!passage.errors.is_empty() && passage.dropped_calls > 0);
    let ends = passage.errors.len() + passage.dropped_calls;
    assert!(arrival.duplicates <= ends * agentguard_daemon::sink::relp::WINDOW);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn nothing_is_lost_over_tcp() {
    assert_nothing_lost(|server| format!("address = \"127.0.0.1:{}\"", server.relp)).await;
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn nothing_is_lost_over_tls() {
    assert_nothing_lost(|server| {
        let tls = certificates::settings(server.directory());
        format!("address = \"127.0.0.1:{}\"\n[tls]\n{tls}", server.relp_tls)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn tls_is_refused_with_the_reason() {
    let server = Server::start(Kind::Rsyslog);
    let directory = server.directory();
    let ca = |name| format!("ca = {:?}\n", certificates::path(directory, name));
    let own = certificates::own(directory);
    for (tls, wanted) in [
        (ca("other-ca.pem") + &own, "UnknownIssuer"),
        (
            ca("ca.pem") + &own + "server-name = \"other.example\"\n",
            "other.example",
        ),
        (ca("ca.pem"), "CertificateRequired"),
    ] {
        let settings = format!("address = \"127.0.0.1:{}\"\n[tls]\n{tls}", server.relp_tls);
        let mut progress = Progress::default();
        let result = relp(&settings).deliver(&records(1, 1), &mut progress).await;
        let said = result.unwrap_err().to_string();
        println!("{said}");
        assert!(said.contains(wanted), "{wanted}: {said}");
        assert_eq!(progress, Progress::default());
    }
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn what_does_not_speak_relp_is_told_of() {
    let server = Server::start(Kind::Rsyslog);
    // The port of plain syslog answers nothing, that of TLS ends the connection.
    let settings = format!("address = \"127.0.0.1:{}\"", server.relp_tls);
    let result = relp(&settings)
        .deliver(&records(1, 1), &mut Progress::default())
        .await;
    let said = result.unwrap_err().to_string();
    println!("{said}");
    assert!(
        said.starts_with("cannot send to 127.0.0.1:") || said.contains("answered"),
        "{said}"
    );
}
