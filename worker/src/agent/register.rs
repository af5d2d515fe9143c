//! Introducing the worker to the coordinator, which may not be there yet.

use super::deadline::last_call;
use super::{AgentError, Backoff, Settings, Signals};
use crate::client::Client;
use protocol::claim::{Register, Registered};
use protocol::job::Kind;

/// Registers; `None` when asked to stop before it came to that.
pub async fn register(
    client: &Client,
    settings: &Settings,
    signals: &mut Signals,
) -> Result<Option<Registered>, AgentError> {
    let mut backoff = Backoff::default();
    loop {
        let body = introduction(settings);
        let error = tokio::select! {
            answer = client.register(&body) => match answer {
                Ok(registered) => return Ok(Some(registered)),
                Err(error) => error,
            },
            () = signals.asked() => return Ok(None),
        };
        if !error.is_passing() {
            return Err(AgentError::Register(error));
        }
        backoff.report(&error, "waiting for the coordinator");
        tokio::select! {
            () = backoff.pause() => {}
            () = signals.asked() => return Ok(None),
            () = last_call(settings.deadline) => return Ok(None),
        }
    }
}

fn introduction(settings: &Settings) -> Register {
    let identity = &settings.identity;
    Register {
        api_version: protocol::version::API_VERSION,
        name: identity.name.clone(),
        host: identity.host.clone(),
        pid: std::process::id(),
        device: identity.device.clone(),
        device_name: identity.device_name.clone(),
        device_uuid: identity.device_uuid.clone(),
        slots: identity.slots,
        batch: identity.batch,
        kinds: Kind::ALL.to_vec(),
        precisions: identity.precisions.clone(),
        remaining_ms: settings.deadline.map(|deadline| deadline.left().as_millis() as u64),
        software: protocol::version::SOFTWARE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Identity;
    use protocol::job::Precision;
    use std::time::Duration;

    #[test]
    fn a_card_is_introduced_by_its_own_name() {
        let identity = Identity {
            name: "node07/cuda:1".to_owned(),
            host: "node07".to_owned(),
            device: "cuda:1".to_owned(),
            device_name: "Tesla V100-SXM2-16GB".to_owned(),
            device_uuid: Some("GPU-7c1e".to_owned()),
            precisions: vec![Precision::Single, Precision::Half],
            slots: 1,
            batch: 4,
        };
        let settings = Settings { identity, spool: None, deadline: None, grace: Duration::ZERO };
        let introduction = introduction(&settings);
        assert_eq!(introduction.device_uuid.as_deref(), Some("GPU-7c1e"));
        assert_eq!(introduction.precisions, [Precision::Single, Precision::Half]);
    }
}
