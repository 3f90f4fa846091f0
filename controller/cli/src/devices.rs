//! What an operator believes of a device: its record, verified here, whatever the controller says of it.

use crate::error::{CliError, Result};
use crate::trust::{Trust, now, refusal};
use shoal_protocol::Code;
use shoal_protocol::codec::{self, CodecError, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::{DeviceRecord, Kind, Token};
use shoal_protocol::verify::{Expect, TrustState, Verdict, verify};

/// Verifies a token by the enrollment role of the own root. That it ended since does not matter: what it gave out stays.
fn token(trust: &Trust, envelope: &[u8]) -> Result<Token> {
    let malformed =
        |e: CodecError| CliError::refused(Code::Malformed.as_str(), "the device's token").because(e);
    let sealed = Envelope::parse(envelope).map_err(malformed)?;
    let said: Token =
        codec::decode(sealed.payload(), Limits::of_size(Kind::Token.size_cap())).map_err(malformed)?;
    let time = now().min(said.not_after);
    verify(envelope, &trust.state, time, Expect::Only(Kind::Token))
        .map_err(|r| refusal("the device's token", &r))?;
    Ok(said)
}

/// A device's record: signed by the enrollment role, or by the key of this token.
fn record(trust: &Trust, device: &DeviceId, envelope: &[u8], by: Option<Token>) -> Result<DeviceRecord> {
    let time = by.as_ref().map_or_else(now, |t| now().min(t.not_after));
    let state = TrustState { tokens: by.into_iter().collect(), record: None, ..trust.state.clone() };
    let verdict = verify(envelope, &state, time, Expect::Only(Kind::Device))
        .map_err(|r| refusal("the device's record", &r))?;
    let Verdict::Device(verified) = verdict else {
        return Err(CliError::refused(Code::WrongType.as_str(), "the device's record is none"));
    };
    let record = verified.into_document();
    if record.device != *device {
        return Err(CliError::refused(
            Code::RecipientUnsigned.as_str(),
            format!("the controller's record is of device {}, not of {device}", record.device),
        ));
    }
    Ok(record)
}

/// What a device asked to be approved with, and its token. The token's key signed it, which only makes it a request.
pub(crate) fn request(
    trust: &Trust,
    device: &DeviceId,
    envelope: &[u8],
    token_envelope: &[u8],
) -> Result<(DeviceRecord, Token)> {
    let token = token(trust, token_envelope)?;
    let asking = Token { approval: false, ..token.clone() };
    Ok((record(trust, device, envelope, Some(asking))?, token))
}

/// The record that counts of an enrolled device.
pub(crate) fn enrolled(
    trust: &Trust,
    device: &DeviceId,
    envelope: &[u8],
    token_envelope: Option<&[u8]>,
) -> Result<DeviceRecord> {
    // By the role itself, if that will do: then it does not matter what the token was.
    record(trust, device, envelope, None).or_else(|error| match token_envelope {
        Some(t) => record(trust, device, envelope, Some(token(trust, t)?)),
        None => Err(error),
    })
}
