//! `BandwidthService`.

use p2pd_api::v1::{
    self, GetBandwidthRequest, GetBandwidthResponse, SetBandwidthRequest, SetBandwidthResponse,
    bandwidth_service_server::BandwidthService,
};
use p2pd_core::setting::{Fault, Rate};
use p2pd_net::{Bandwidth, Shaper};
use tonic::{Request, Response, Status};

use super::status;

pub(super) struct Service {
    pub(super) shaper: Shaper,
}

impl Service {
    fn limits(&self) -> v1::Bandwidth {
        let Bandwidth {
            upload,
            download,
            wan_upload,
            wan_download,
            peer_upload,
            peer_download,
            bulk_upload,
            bulk_download,
            messages_upload,
        } = self.shaper.limits();
        v1::Bandwidth {
            upload: Some(upload.0),
            download: Some(download.0),
            wan_upload: Some(wan_upload.0),
            wan_download: Some(wan_download.0),
            peer_upload: Some(peer_upload.0),
            peer_download: Some(peer_download.0),
            bulk_upload: Some(bulk_upload.0),
            bulk_download: Some(bulk_download.0),
            messages_upload: Some(messages_upload.0),
        }
    }
}

/// The rates of a request, and of what is in force those that it leaves out.
fn changed(now: Bandwidth, wanted: v1::Bandwidth) -> Bandwidth {
    let rate = |now: Rate, wanted: Option<u64>| wanted.map_or(now, Rate);
    Bandwidth {
        upload: rate(now.upload, wanted.upload),
        download: rate(now.download, wanted.download),
        wan_upload: rate(now.wan_upload, wanted.wan_upload),
        wan_download: rate(now.wan_download, wanted.wan_download),
        peer_upload: rate(now.peer_upload, wanted.peer_upload),
        peer_download: rate(now.peer_download, wanted.peer_download),
        bulk_upload: rate(now.bulk_upload, wanted.bulk_upload),
        bulk_download: rate(now.bulk_download, wanted.bulk_download),
        messages_upload: rate(now.messages_upload, wanted.messages_upload),
    }
}

#[tonic::async_trait]
impl BandwidthService for Service {
    async fn get_bandwidth(&self, _: Request<GetBandwidthRequest>) -> Result<Response<GetBandwidthResponse>, Status> {
        Ok(Response::new(GetBandwidthResponse { limits: Some(self.limits()) }))
    }

    async fn set_bandwidth(
        &self,
        request: Request<SetBandwidthRequest>,
    ) -> Result<Response<SetBandwidthResponse>, Status> {
        let wanted = request.into_inner().limits.unwrap_or_default();
        let limits = self.shaper.change(|now| changed(now, wanted)).map_err(|Fault(fault)| {
            let key = fault.split(' ').next().unwrap_or_default();
            status::field(&format!("limits.{key}"), &fault)
        })?;
        tracing::info!(?limits, "other bandwidth");
        Ok(Response::new(SetBandwidthResponse { limits: Some(self.limits()) }))
    }
}
