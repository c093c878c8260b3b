//! An action as a mail, by SMTP.

use async_trait::async_trait;
use lettre::address::Envelope;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use super::fetch;
use super::fill::{self, Arguments};
use super::text::shorten;
use crate::model::connector::{Command, ConnectorError, Effector, MailEffector};
use crate::model::template::{Holes, Template};

/// The longest subject, characters.
const SUBJECT_LIMIT: usize = 200;

/// Writes a mail and hands it to the server, over a connection of its own.
pub(super) struct Mailer {
    server: String,
    user: Option<(String, Template)>,
    from: Mailbox,
    to: Vec<Mailbox>,
    subject: Option<Template>,
    text: Option<Template>,
}

impl Mailer {
    pub(super) fn new(spec: &MailEffector) -> Result<Self, ConnectorError> {
        // Whether the server is one that can be spoken to is told when the policy is loaded.
        transport(&spec.server)?;
        let template = |text: &Option<String>| {
            text.as_deref().map(|text| fill::parse(text, Holes::Arguments)).transpose()
        };
        let user = match (&spec.user, &spec.password) {
            (Some(user), Some(password)) => Some((user.clone(), fill::parse(password, Holes::Secrets)?)),
            _ => None,
        };
        Ok(Self {
            server: spec.server.clone(),
            user,
            from: mailbox(&spec.from)?,
            to: spec.to.iter().map(|to| mailbox(to)).collect::<Result<_, _>>()?,
            subject: template(&spec.subject)?,
            text: template(&spec.text)?,
        })
    }

    fn message(&self, command: &Command) -> Result<Message, ConnectorError> {
        let arguments = Arguments::of(command);
        let subject = match &self.subject {
            Some(template) => fill::plain(template, &arguments)?,
            None => format!("{}: {}", command.service, command.action),
        };
        let text = match &self.text {
            Some(template) => fill::plain(template, &arguments)?,
            None => format!("{}\n\n{} {}\n", command.action, command.service, command.key),
        };
        // One line: what is filled in must not become a header of its own.
        let subject: String = subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut mail = Message::builder()
            .from(self.from.clone())
            .subject(shorten(&subject, SUBJECT_LIMIT))
            .message_id(None);
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        mail.body(text).map_err(|why| ConnectorError::Config(format!("the mail cannot be written: {why}")))
    }
}

impl Mailer {
    /// Sends to each receiver by itself; those that the server refuses for good are named in the answer.
    async fn each(
        &self,
        transport: &AsyncSmtpTransport<Tokio1Executor>,
        message: &Message,
    ) -> Result<String, ConnectorError> {
        let (mut taken, mut refused) = (0, Vec::new());
        for to in &self.to {
            let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.email.clone()])
                .map_err(|why| ConnectorError::Config(format!("`{to}`: {why}")))?;
            match transport.send_raw(&envelope, &message.formatted()).await {
                Ok(_) => taken += 1,
                Err(why) if why.is_permanent() => refused.push(format!("{to}: {}", fetch::root(&why))),
                Err(why) => refused.push(format!("{to}, who may be told later: {}", fetch::root(&why))),
            }
        }
        match taken {
            0 => {
                Err(ConnectorError::Answer(format!("{}: nobody got it: {}", self.server, refused.join("; "))))
            }
            _ => Ok(format!("{taken} got it; refused: {}", refused.join("; "))),
        }
    }
}

fn mailbox(text: &str) -> Result<Mailbox, ConnectorError> {
    text.parse().map_err(|why| ConnectorError::Config(format!("`{text}` is no mail address: {why}")))
}

fn transport(server: &str) -> Result<lettre::transport::smtp::AsyncSmtpTransportBuilder, ConnectorError> {
    let fail = |why: String| ConnectorError::Config(format!("`server: {server}`: {why}"));
    let url = url::Url::parse(server).map_err(|why| fail(why.to_string()))?;
    let host = url.host_str().ok_or_else(|| fail("it names no host".into()))?;
    type Transport = AsyncSmtpTransport<Tokio1Executor>;
    let builder = match url.scheme() {
        "smtp" => Transport::builder_dangerous(host),
        #[cfg(feature = "tls")]
        "smtps" => Transport::relay(host).map_err(|why| fail(why.to_string()))?,
        #[cfg(feature = "tls")]
        "smtp+starttls" => Transport::starttls_relay(host).map_err(|why| fail(why.to_string()))?,
        _ => return Err(fail("TLS needs the feature `tls` of homeostat".into())),
    };
    Ok(match url.port() {
        Some(port) => builder.port(port),
        None => builder,
    })
}

#[async_trait]
impl Effector for Mailer {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let message = self.message(command)?;
        let mut transport = transport(&self.server)?;
        if let Some((user, password)) = &self.user {
            let password = fill::secret("`password`", password, None).await?;
            transport = transport.credentials(Credentials::new(user.clone(), password));
        }
        let transport = transport.build();
        let sent = transport.send_raw(message.envelope(), &message.formatted()).await;
        match sent {
            // One whom the server does not know keeps nobody else from getting it.
            Err(why) if why.is_permanent() && self.to.len() > 1 => self.each(&transport, &message).await,
            Ok(answer) => Ok(format!("{} {}", answer.code(), answer.message().collect::<Vec<_>>().join(" "))),
            Err(why) => {
                let text = format!("{}: {}", self.server, fetch::root(&why));
                Err(match why.is_permanent() || why.is_transient() {
                    true => ConnectorError::Answer(text),
                    false => ConnectorError::Unreachable(text),
                })
            }
        }
    }
}
