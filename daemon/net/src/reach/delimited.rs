//! Protobuf messages, each behind its length as a varint, as the specifications of libp2p have them.

use std::io;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streams::ByteStream;

pub(super) async fn write(stream: &mut ByteStream, message: &impl Message) -> io::Result<()> {
    stream.write_all(&message.encode_length_delimited_to_vec()).await?;
    stream.flush().await
}

/// Reads a message of at most so many bytes, less than 16 KiB.
pub(super) async fn read<M: Message + Default>(stream: &mut ByteStream, most: usize) -> io::Result<M> {
    let mut length = 0_usize;
    for shift in [0, 7] {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of more than {most} bytes")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    M::decode(bytes.as_slice()).map_err(io::Error::other)
}
