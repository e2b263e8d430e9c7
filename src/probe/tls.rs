//! A TLS handshake, and how long the certificate is good yet.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::progress::{Fail, Progress, broken};
use super::tcp::{self, Way};
use crate::config;
use crate::wire::x509;

/// Where systems keep the certificates of the usual authorities.
const USUAL: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
const DAY: i64 = 86_400;

/// A TLS client, ready to connect.
#[derive(Clone, Debug)]
pub(super) struct TlsPlan {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    pub(super) sni: Option<String>,
    min_days: u32,
    wants_alpn: bool,
}

impl TlsPlan {
    pub(super) fn load(tls: &config::Tls) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if tls.verify {
            let roots = Arc::new(roots(tls.ca_file.as_deref())?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
            verifier.build().map_err(|error| error.to_string())?
        } else {
            Arc::new(Unverified(Arc::clone(&provider)))
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = config
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = tls
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        // A resumed session shows no certificate.
        config.resumption = Resumption::disabled();
        let name = tls.sni.clone().map(ServerName::try_from).transpose();
        Ok(Self {
            config: Arc::new(config),
            name: name.map_err(|error| error.to_string())?,
            sni: tls.sni.clone(),
            min_days: tls.min_days,
            wants_alpn: !tls.alpn.is_empty(),
        })
    }

    /// Connects and shakes hands. With what an operator should know.
    pub(super) async fn connect(
        &self,
        way: Way<'_>,
        progress: &mut Progress,
    ) -> Result<(TlsStream<TcpStream>, Option<String>), Fail> {
        let stream = tcp::dial(way).await?;
        progress.waits("no TLS handshake");
        let of_address = || way.address.tcp().map(|at| ServerName::from(at.ip()));
        // The configuration has a name where there is no address.
        let name = self.name.clone().or_else(of_address);
        let name = name.ok_or_else(|| Fail::Wrong("no name to verify".into()))?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| explain(&error))?;
        let (_, session) = stream.get_ref();
        if self.wants_alpn && session.alpn_protocol().is_none() {
            return Err(Fail::Wrong("the server chose no protocol (ALPN)".into()));
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let end = certificate.and_then(|certificate| x509::not_after(certificate));
        let warning = end.and_then(|end| self.warning(end));
        Ok((stream, warning))
    }

    fn warning(&self, end: i64) -> Option<String> {
        let left = end - now();
        if left < 0 {
            return (self.min_days > 0).then(|| expired(-left));
        }
        let few = left < i64::from(self.min_days) * DAY;
        few.then(|| match left / DAY {
            0 => "certificate expires today".into(),
            1 => "certificate expires in 1 day".into(),
            days => format!("certificate expires in {days} days"),
        })
    }
}

pub(super) async fn check(
    plan: &TlsPlan,
    way: Way<'_>,
    progress: &mut Progress,
) -> Result<Option<String>, Fail> {
    let (mut stream, warning) = plan.connect(way, progress).await?;
    // Said, so that the server does not log a cut connection; whether it arrives does not matter.
    stream.get_mut().1.send_close_notify();
    let _ = tokio::io::AsyncWriteExt::flush(&mut stream).await;
    Ok(warning)
}

fn now() -> i64 {
    UnixTime::now().as_secs().cast_signed()
}

fn expired(ago: i64) -> String {
    match ago / DAY {
        0 => "certificate expired today".into(),
        1 => "certificate expired 1 day ago".into(),
        days => format!("certificate expired {days} days ago"),
    }
}

/// What went wrong in a handshake.
fn explain(error: &io::Error) -> Fail {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let Some(inner) = inner else {
        return broken("shaking hands (TLS)", error);
    };
    Fail::Wrong(match inner {
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired => "certificate expired".into(),
            CertificateError::ExpiredContext { time, not_after } => {
                let ago = time.as_secs().saturating_sub(not_after.as_secs());
                expired(ago.cast_signed())
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "certificate is not valid yet".into()
            }
            // The second: an authority of the same name, but not the same.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "certificate of an unknown authority".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "certificate is for another name".into()
            }
            other => format!("certificate refused: {other}"),
        },
        Error::InvalidMessage(_) => "no TLS there".into(),
        Error::AlertReceived(alert) => format!("TLS alert of the server: {alert:?}"),
        Error::PeerIncompatible(what) => format!("TLS: nothing in common: {what:?}"),
        Error::NoApplicationProtocol => "the server knows no protocol of `alpn`".into(),
        other => format!("TLS: {other}"),
    })
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let usual = || {
        let mut usual = USUAL.iter().map(PathBuf::from);
        usual.find(|path| path.exists()).ok_or_else(|| {
            "this host has no file of the usual authorities; name one as `ca_file`".to_owned()
        })
    };
    let path = file.map_or_else(usual, |path| Ok(path.to_owned()))?;
    let say = |what: &str| format!("{} {what}", path.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&path)
        .map_err(|error| say(&format!("cannot be read: {error}")))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| say(&format!("is no PEM file: {error}")))?;
        // One that is of no use beside a hundred others is no reason to stop.
        let _ = roots.add(certificate);
    }
    match roots.is_empty() {
        true => Err(say("has no certificate of an authority")),
        false => Ok(roots),
    }
}

/// Takes any certificate; that its key is the server's is still proved.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
