//! `stream list`.

use p2pd_api::v1::{
    ListStreamsResponse, Stream, WatchStreamsRequest, stream_service_client::StreamServiceClient,
    watch_streams_response::Event,
};

use crate::{
    cli::StreamList,
    cmd::context::Context,
    output::{self, Cell, Column, Format, List, Tone, toned},
};

const NO_STREAMS: &str = "no stream is live: `p2pctl publish-stream ID FILE` starts one; those of others come from peers \
    (`p2pctl peers`)";

pub(super) async fn run(context: &Context, StreamList { category, watch }: StreamList) -> anyhow::Result<()> {
    let mut streams = StreamServiceClient::new(context.client.channel.clone());
    if !watch {
        let empty = match category.as_str() {
            "" => NO_STREAMS.into(),
            named => format!("no live stream has the category `{named}`; `p2pctl streams` lists all"),
        };
        let answer = ListStreamsResponse { streams: context.client.streams(category).await?, ..Default::default() };
        let list = List {
            answer: &answer,
            answer_name: "ListStreamsResponse",
            items: &answer.streams,
            item_name: "Stream",
            empty: &empty,
        };
        return output::list(context.format, &list, table);
    }
    let mut changes = context.client.answer(streams.watch_streams(WatchStreamsRequest {})).await?;
    loop {
        let change = output::watch(&mut changes).await?;
        if matches!(&change.event, Some(Event::Present(s)) if !category.is_empty() && s.category != category) {
            continue;
        }
        if context.format != Format::Table {
            output::line(&output::to_json("WatchStreamsResponse", &change, false)?)?;
            continue;
        }
        match change.event {
            Some(Event::Present(s)) => {
                let live = output::paint(Tone::Good, "live  ");
                output::show(&format!("{live} {}", row(&s).map(|cell| cell.to_string()).join("  ")))?;
            }
            Some(Event::Gone(gone)) => {
                let reason = output::paint(Tone::Dim, format_args!("{:6}", gone.reason));
                output::show(&format!("{reason} {}  {}", gone.stream_id, output::short(&gone.publisher)))?;
            }
            _ => {}
        }
    }
}

fn table(streams: &[Stream]) -> String {
    let heads = [
        Column::whole("STREAM"),
        Column::whole("PUBLISHER"),
        Column::cut("NAME"),
        Column::cut("CATEGORY"),
        Column::cut("CODEC"),
        Column::whole("LISTENERS"),
        Column::whole("HEARD"),
    ];
    output::rows(&heads, streams.iter().map(row))
}

fn row(stream: &Stream) -> [Cell; 7] {
    let codec = match &stream.config {
        Some(config) => {
            let sound = if config.channels == 1 { "mono" } else { "stereo" };
            // The bitrate of packets that are passed through is not known.
            match config.bitrate / 1000 {
                0 => format!("{} {sound}", config.codec),
                kbits => format!("{} {kbits}k {sound}", config.codec),
            }
        }
        None => "json".into(),
    };
    // The daemon also sends it in the old format.
    let codec = if stream.old_listeners > 0 { codec + " +json" } else { codec };
    let heard = match stream {
        Stream { local: true, .. } => "here".into(),
        Stream { confirmed: false, .. } => toned(Tone::Warning, "not yet"),
        Stream { age_ms, .. } => output::age(*age_ms).into(),
    };
    let listeners = stream.listeners.map_or_else(|| "-".into(), |n| n.to_string());
    [
        stream.stream_id.clone().into(),
        output::short(&stream.publisher).into(),
        stream.name.clone().into(),
        stream.category.clone().into(),
        codec.into(),
        listeners.into(),
        heard,
    ]
}
