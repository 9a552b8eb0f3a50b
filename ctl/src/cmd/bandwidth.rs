//! `bandwidth`: how fast bytes go.

use p2pd_api::v1::{
    Bandwidth, GetBandwidthRequest, SetBandwidthRequest, bandwidth_service_client::BandwidthServiceClient,
};

use super::context::Context;
use crate::{
    error::{Exit, fail},
    output::{self, Cell},
    rate,
};

pub(super) async fn run(context: &Context, rates: &[(String, u64)]) -> anyhow::Result<()> {
    let mut service = BandwidthServiceClient::new(context.client.channel.clone());
    let limits = if rates.is_empty() {
        context.client.answer(service.get_bandwidth(GetBandwidthRequest {})).await?.limits
    } else {
        let limits = Some(wanted(rates)?);
        context.client.answer(service.set_bandwidth(SetBandwidthRequest { limits })).await?.limits
    };
    output::message(context.format, "Bandwidth", &limits.unwrap_or_default(), table)
}

/// Each rate, by its name.
fn named(limits: &mut Bandwidth) -> [(&'static str, &mut Option<u64>); 9] {
    [
        ("upload", &mut limits.upload),
        ("download", &mut limits.download),
        ("wan_upload", &mut limits.wan_upload),
        ("wan_download", &mut limits.wan_download),
        ("peer_upload", &mut limits.peer_upload),
        ("peer_download", &mut limits.peer_download),
        ("bulk_upload", &mut limits.bulk_upload),
        ("bulk_download", &mut limits.bulk_download),
        ("messages_upload", &mut limits.messages_upload),
    ]
}

fn wanted(rates: &[(String, u64)]) -> anyhow::Result<Bandwidth> {
    let mut limits = Bandwidth::default();
    for (name, wanted) in rates {
        let names = named(&mut limits).map(|(known, _)| known).join(", ");
        let known = named(&mut limits).into_iter().find(|(known, _)| known == name);
        let Some((_, rate)) = known else {
            return Err(fail(Exit::Usage, format!("`{name}` is no name of a rate; there are {names}")));
        };
        *rate = Some(*wanted);
    }
    Ok(limits)
}

fn table(limits: &Bandwidth) -> String {
    let mut limits = *limits;
    let rows = named(&mut limits).map(|(name, bytes)| {
        let bytes = bytes.unwrap_or_default();
        (name, Cell::from(if bytes == 0 { "no bound".to_owned() } else { rate::shown(bytes) }))
    });
    output::page(rows)
}
