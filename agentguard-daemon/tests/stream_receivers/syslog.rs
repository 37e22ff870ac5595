//! Syslog over TCP, TLS and a local socket. Nothing is confirmed: see the module of the transport.

use agentguard_daemon::sink::{
    Progress,
    syslog::{Syslog, SyslogSettings},
};

use crate::{
    certificates::{self, SERVER},
    drive::{Arrival, Fault, Passage, RECORDS, Transport, drive_through, records},
    server::{Kind, Server},
};

fn syslog(settings: &str) -> Transport {
    let settings: SyslogSettings = toml::from_str(settings).unwrap();
    Transport::Syslog(Syslog::new(settings))
}

fn over_tcp(server: &Server) -> String {
    format!("address = \"127.0.0.1:{}\"", server.tcp)
}

fn over_tls(server: &Server) -> String {
    let tls = certificates::settings(server.directory());
    format!("address = \"127.0.0.1:{}\"\n[tls]\n{tls}", server.tls)
}

fn over_socket(server: &Server) -> String {
    format!("socket = {:?}\nfacility = \"daemon\"", server.socket)
}

/// Sends records through the faults, says what came of it, and returns that.
async fn pass(
    kind: Kind,
    settings: impl Fn(&Server) -> String,
    faults: &[Fault],
) -> (Passage, Arrival) {
    let mut server = Server::start(kind);
    let records = records(1, RECORDS);
    let mut transport = syslog(&settings(&server));
    let passage = drive_through(&mut transport, &records, &mut server.program, faults).await;
    let arrival = server.arrival(&records);
    println!(
        "{kind:?} {faults:?}: {} missing, {} twice, {} calls dropped, errors: {:?}",
        arrival.missing.len(),
        arrival.duplicates,
        passage.dropped_calls,
        passage.errors
    );
    (passage, arrival)
}

/// Nobody is killed: everything arrives, and once unless calls were dropped.
async fn assert_whole(kind: Kind, settings: impl Fn(&Server) -> String, faults: &[Fault]) {
    let (passage, arrival) = pass(kind, settings, faults).await;
    assert_eq!(arrival.missing, Vec::<u64>::new());
    assert_eq!(passage.errors, Vec::<String>::new());
    if faults.is_empty() {
        assert_eq!((arrival.duplicates, passage.dropped_calls), (0, 0));
    }
}

/// Somebody is killed: what is missing was in flight, and the rest arrives without help.
async fn assert_lost_in_flight(kind: Kind, settings: impl Fn(&Server) -> String) {
    let (passage, arrival) = pass(kind, settings, &[Fault::Kill]).await;
    assert!(!passage.errors.is_empty(), "it was not noticed");
    arrival.assert_lost_in_flight();
}

macro_rules! cases {
    ($($name:ident: $assertion:ident($($argument:expr),*);)*) => {$(
        #[tokio::test]
        #[ignore = "needs receivers: cargo xtask test runs it"]
        async fn $name() {
            $assertion($($argument),*).await;
        }
    )*};
}

cases! {
    rsyslog_gets_all_over_tcp: assert_whole(Kind::Rsyslog, over_tcp, &[]);
    rsyslog_gets_all_over_tcp_when_it_was_stalled:
        assert_whole(Kind::Rsyslog, over_tcp, &[Fault::Stall]);
    rsyslog_lost_over_tcp_what_was_in_flight: assert_lost_in_flight(Kind::Rsyslog, over_tcp);
    rsyslog_gets_all_over_tls: assert_whole(Kind::Rsyslog, over_tls, &[]);
    rsyslog_lost_over_tls_what_was_in_flight: assert_lost_in_flight(Kind::Rsyslog, over_tls);
    rsyslog_gets_all_over_a_socket: assert_whole(Kind::Rsyslog, over_socket, &[Fault::Stall]);
    rsyslog_lost_over_a_socket_what_was_in_flight:
        assert_lost_in_flight(Kind::Rsyslog, over_socket);
    syslog_ng_gets_all_over_tcp: assert_whole(Kind::SyslogNg, over_tcp, &[Fault::Stall]);
    syslog_ng_lost_over_tcp_what_was_in_flight: assert_lost_in_flight(Kind::SyslogNg, over_tcp);
    syslog_ng_gets_all_over_tls: assert_whole(Kind::SyslogNg, over_tls, &[]);
    syslog_ng_lost_over_tls_what_was_in_flight: assert_lost_in_flight(Kind::SyslogNg, over_tls);
    syslog_ng_gets_all_over_a_socket: assert_whole(Kind::SyslogNg, over_socket, &[Fault::Stall]);
    rsyslog_is_refused_or_refuses: assert_refused(Kind::Rsyslog);
    syslog_ng_is_refused_or_refuses: assert_refused(Kind::SyslogNg);
}

async fn assert_refused(kind: Kind) {
    let server = Server::start(kind);
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
        let settings = format!("address = \"127.0.0.1:{}\"\n[tls]\n{tls}", server.tls);
        let mut progress = Progress::default();
        let result = syslog(&settings)
            .deliver(&records(1, 1), &mut progress)
            .await;
        let said = result.unwrap_err().to_string();
        println!("{kind:?}: {said}");
        assert!(said.contains(wanted), "{wanted}: {said}");
        assert_eq!(progress, Progress::default());
    }
    // The name in the certificate is as good as the address.
    let named = over_tls(&server) + &format!("server-name = {SERVER:?}\n");
    let mut transport = syslog(&named);
    let one = records(1, 1);
    transport
        .deliver(&one, &mut Progress::default())
        .await
        .unwrap();
    transport.close().await;
    assert_eq!(server.arrival(&one).missing, Vec::<u64>::new());
}
