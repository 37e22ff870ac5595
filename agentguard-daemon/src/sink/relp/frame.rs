//! Frames of RELP: `TRANSACTION COMMAND LENGTH[ DATA]` and a newline.

/// The largest number of a transaction; after it comes 1.
pub(super) const MAX_TRANSACTION: u32 = 999_999_999;

/// Most bytes of data of a frame that is received: answers are short.
pub(super) const MAX_DATA_BYTES: usize = 4_096;

/// Most bytes before the data: two numbers of nine digits and a command of 32 letters.
const MAX_HEADER_BYTES: usize = 9 + 1 + 32 + 1 + 9;

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) transaction: u32,
    pub(super) command: String,
    pub(super) data: Vec<u8>,
}

/// What a frame from the server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// What it answers to is done.
    Accepted,
    /// The server ends the session.
    Closing,
    /// Anything else: a refusal, or no answer.
    Other,
}

/// Bytes that are no frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Frame {
    pub(super) fn reply(&self) -> Reply {
        match self.command.as_str() {
            "rsp" if is_ok(&self.data) => Reply::Accepted,
            "serverclose" => Reply::Closing,
            _ => Reply::Other,
        }
    }
}

/// Whether an answer begins with the code 200.
fn is_ok(data: &[u8]) -> bool {
    let code = data.split(|byte| matches!(byte, b' ' | b'\n')).next();
    code == Some(b"200")
}

/// Appends a frame.
pub(super) fn push(frames: &mut Vec<u8>, transaction: u32, command: &str, data: &[u8]) {
    frames.extend_from_slice(format!("{transaction} {command} {}", data.len()).as_bytes());
    if !data.is_empty() {
        frames.push(b' ');
        frames.extend_from_slice(data);
    }
    frames.push(b'\n');
}

/// Takes a whole frame off the start of what was received; nothing while it is not all there.
pub(super) fn take(received: &mut Vec<u8>) -> Result<Option<Frame>, Malformed> {
    let Some((frame, length)) = parse(received)? else {
        return Ok(None);
    };
    received.drain(..length);
    Ok(Some(frame))
}

fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, Malformed> {
    let mut rest = bytes;
    let Some(transaction) = word(&mut rest, |byte| byte == b' ')? else {
        return Ok(None);
    };
    let transaction = number(transaction)?;
    let Some(command) = word(&mut rest, |byte| byte == b' ')? else {
        return Ok(None);
    };
    if command.is_empty() || !command.iter().all(u8::is_ascii_alphabetic) {
        return Err(Malformed);
    }
    let command = String::from_utf8_lossy(command).into_owned();
    // Without data, some write no space.
    let before = rest;
    let Some(length) = word(&mut rest, |byte| matches!(byte, b' ' | b'\n'))? else {
        return Ok(None);
    };
    let has_ended = before.get(length.len()) == Some(&b'\n');
    let length = usize::try_from(number(length)?).map_err(|_too_large| Malformed)?;
    if length > MAX_DATA_BYTES || transaction > MAX_TRANSACTION || (has_ended && length > 0) {
        return Err(Malformed);
    }
    let data = rest.get(..length).map(<[u8]>::to_vec);
    let end = if has_ended { 0 } else { length + 1 };
    let is_whole = has_ended || rest.len() >= end;
    let Some(data) = data.filter(|_| is_whole) else {
        return Ok(None);
    };
    if !has_ended && rest[length] != b'\n' {
        return Err(Malformed);
    }
    let frame = Frame {
        transaction,
        command,
        data,
    };
    Ok(Some((frame, bytes.len() - rest.len() + end)))
}

/// Takes what is before a separator off the start, and the separator; nothing while there is none.
fn word<'a>(
    rest: &mut &'a [u8],
    is_separator: impl Fn(u8) -> bool,
) -> Result<Option<&'a [u8]>, Malformed> {
    match rest.iter().position(|&byte| is_separator(byte)) {
        Some(end) if end <= MAX_HEADER_BYTES => {
            let word = &rest[..end];
            *rest = &rest[end + 1..];
            Ok(Some(word))
        }
        None if rest.len() <= MAX_HEADER_BYTES => Ok(None),
        Some(_) | None => Err(Malformed),
    }
}

fn number(digits: &[u8]) -> Result<u32, Malformed> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_with_their_length() {
        let mut frames = Vec::new();
        push(&mut frames, 1, "open", "ü".as_bytes());
        push(&mut frames, 2, "close", b"");
        assert_eq!(frames, "1 open 2 ü\n2 close 0\n".as_bytes());
    }

    #[test]
    fn answers_are_taken_one_by_one_wherever_they_are_cut() {
        let text = b"1 rsp 93 200 OK\nrelp_version=0\nrelp_software=librelp,1.11.0,http://librelp.adiscon.com\ncommands=syslog\n\
            2 rsp 6 200 OK\n3 rsp 3 200\n4 rsp 9 500 no\n x\n5 rsp 0\n6 rsp 0 \n0 serverclose 0\n";
        let wanted = [
            (1, "rsp", Reply::Accepted),
            (2, "rsp", Reply::Accepted),
            (3, "rsp", Reply::Accepted),
            (4, "rsp", Reply::Other),
            (5, "rsp", Reply::Other),
            (6, "rsp", Reply::Other),
            (0, "serverclose", Reply::Closing),
        ];
        for piece in [1, 2, 3, 7, 1_000] {
            let mut received = Vec::new();
            let mut frames = Vec::new();
            for bytes in text.chunks(piece) {
                received.extend_from_slice(bytes);
                while let Some(frame) = take(&mut received).unwrap() {
                    frames.push((frame.transaction, frame.command.clone(), frame.reply()));
                }
            }
            assert!(received.is_empty());
            let frames: Vec<_> = frames
                .iter()
                .map(|(transaction, command, reply)| (*transaction, command.as_str(), reply))
                .collect();
            let wanted: Vec<_> = wanted.iter().map(|(t, c, r)| (*t, *c, r)).collect();
            assert_eq!(frames, wanted, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_and_does_not_grow() {
        for text in [
            "x rsp 0\n",
            " rsp 0\n",
            "1  0\n",
            "1 r\u{1b}p 0\n",
            "1 rsp x\n",
            "1 rsp -1 \n",
            "1 rsp 4097 x",
            "1 rsp 9999999999 x",
            "1111111111 rsp 0\n",
            "1 rsp 3\n200\n",
            "1 rsp 3 200x",
            "1 rsp 0 x",
            "HTTP/1.1 400 Bad Request\r\n",
            &"1".repeat(100),
            &format!("1 {}", "r".repeat(100)),
        ] {
            assert_eq!(
                take(&mut text.as_bytes().to_vec()),
                Err(Malformed),
                "{text}"
            );
        }
    }
}
