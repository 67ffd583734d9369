//! What each error code means, and what whoever meets it can do: the text behind `/problems/{code}`.

use crate::error::ErrorCode;

/// Whether an operation that was answered with a code may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Never: nothing was done.
    No,
    /// The answer says so each time, with `Hydra-Applied`.
    Told,
}

impl ErrorCode {
    /// What happened, in one or two sentences.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.explained().0
    }

    /// What can be done about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        self.explained().1
    }

    /// Whether an operation that was answered with the code may have been carried out, in words.
    #[must_use]
    pub fn applied_in_words(self) -> &'static str {
        match self.carried() {
            Carried::No => "No: nothing was done.",
            Carried::Told => "Hydra-Applied in the answer says it: no, yes, or unknown.",
        }
    }

    pub(crate) fn carried(self) -> Carried {
        match self {
            ErrorCode::TreasureNotFound
            | ErrorCode::IdempotencyReuse
            | ErrorCode::Internal
            | ErrorCode::Io
            | ErrorCode::DiskFull
            | ErrorCode::SwampReadOnly
            | ErrorCode::Draining
            | ErrorCode::ServerUnreachable
            | ErrorCode::ServerTimeout
            | ErrorCode::Unknown => Carried::Told,
            _ => Carried::No,
        }
    }

    fn explained(self) -> (&'static str, &'static str) {
        match self {
            ErrorCode::InvalidName => (
                "A swamp name has three parts, sanctuary/realm/swamp, each 1 to 255 bytes of UTF-8 without slashes, \
                 control characters, * and spaces at either end.",
                "Correct the part that the detail names. Percent-encode what a URL cannot hold.",
            ),
            ErrorCode::InvalidKey => (
                "A key has 1 to 1024 bytes of UTF-8 without control characters, and no empty or dotted piece in a path.",
                "Correct the key. Write a slash of the key as %2F, and the dots of a piece . or .. as %2E.",
            ),
            ErrorCode::InvalidJson => (
                "The value is not one strict JSON value. The detail has line and column.",
                "Correct the JSON. To store text send Content-Type: text/plain, to store bytes their own type.",
            ),
            ErrorCode::InvalidBody => (
                "The body of the request has another shape than this endpoint reads, or did not come in full.",
                "Compare the body with the schema of the endpoint in /openapi.json.",
            ),
            ErrorCode::InvalidParameter => (
                "A query parameter, or a number in the path, has a value that is not allowed.",
                "The detail names the parameter and what it may be.",
            ),
            ErrorCode::UnknownParameter => (
                "Nothing here reads this query parameter. Unknown parameters are refused, because a misspelt condition \
                 must not become a write without one.",
                "Correct the name; the hint has the nearest one.",
            ),
            ErrorCode::InvalidHeader => (
                "A header of the request has a value that is not allowed, or stands more than once.",
                "The detail names the header and what it may be.",
            ),
            ErrorCode::InvalidCursor => (
                "The cursor was not handed out for this list, in this order.",
                "Send nextCursor of the page before unchanged, or begin again without one.",
            ),
            ErrorCode::InvalidPattern => (
                "A pattern has three parts, each a name, prefix* or *.",
                "Correct the pattern, e.g. users/*/* or chat/room-*/lobby.",
            ),
            ErrorCode::InvalidConfig => (
                "A setting, a flag or a file of settings cannot be used.",
                "The detail names the setting and what it may be.",
            ),
            ErrorCode::MissingToken => (
                "This server answers requests only with a token, and this one had none.",
                "Send Authorization: Bearer <token>. Whoever runs the server makes tokens with `hydra-server token new`.",
            ),
            ErrorCode::InvalidToken => (
                "The token is none of this server, or it was taken away.",
                "Ask for a new token, and look whether the right one is sent to the right server.",
            ),
            ErrorCode::ScopeDenied => (
                "The token is known, but lacks a scope that the request needs (r, w, a or destroy), or is for other \
                 swamps.",
                "The detail names the scope and the names. Asking another server does not help; ask for another token.",
            ),
            ErrorCode::OriginDenied => (
                "A page of another origin made a browser send a request that changes something.",
                "If the page is yours, start the server with --allow-origin for it. Programs leave Origin out.",
            ),
            ErrorCode::NotFound => (
                "No endpoint has this path.",
                "Treasures are at /v1/kv/{sanctuary}/{realm}/{swamp}/{key}; all paths are in /openapi.json.",
            ),
            ErrorCode::SwampNotFound => (
                "The swamp has no treasure, so it does not exist. Swamps come into being with their first treasure.",
                "Check the name, or write to it.",
            ),
            ErrorCode::TreasureNotFound => (
                "The swamp has no treasure under this key, or it has expired.",
                "Check the key. A DELETE that a fallback answers so may have left a mark for the primary.",
            ),
            ErrorCode::LockNotFound => (
                "Nobody holds the lock, or the time of whoever held it is over.",
                "Take it with a POST to the same path.",
            ),
            ErrorCode::PolicyNotFound => {
                ("No policy is registered for exactly this pattern.", "GET /v1/policies lists those that are.")
            }
            ErrorCode::MethodNotAllowed => {
                ("The path exists, but not with this method.", "Use one of the methods in the header Allow.")
            }
            ErrorCode::FolderCountMismatch => (
                "The client counts another number of folders than the data directory of the server was made with. Both \
                 would look for the same name in different places.",
                "Correct the number of folders in the client map; that of a directory never changes.",
            ),
            ErrorCode::LockHeld => (
                "Somebody else holds the lock, or others wait for it.",
                "Ask again after Retry-After, or send a wait and stand in line.",
            ),
            ErrorCode::BatchAborted => (
                "One operation of an atomic batch failed, so none was applied. The detail has its place.",
                "Correct that operation, or read again what its condition was about, and send the batch again.",
            ),
            ErrorCode::IdempotencyInProgress => (
                "A request with the same Idempotency-Key is being worked on.",
                "Wait and send it again: then the first answer comes.",
            ),
            ErrorCode::VersionMismatch => (
                "The treasure is at another version than the one demanded with If-Match or ifVersion.",
                "Read it again (currentVersion is where it is now), decide again, and send the write with that version.",
            ),
            ErrorCode::LockTokenMismatch => (
                "The lock is not held with this token: it was given back, its time is over, or somebody else has it.",
                "What was done under the lock may overlap with what others did. Take the lock again, and let what it \
                 protects refuse lower fences.",
            ),
            ErrorCode::AlreadyExists => (
                "The treasure exists, and the request demanded that it does not.",
                "Read it, or write without If-None-Match.",
            ),
            ErrorCode::ValueTooLarge => (
                "The value is longer than the policy of the swamp or the server allows. The detail has the limit.",
                "Store a shorter value or split it over keys; maxValueBytes of a policy goes up to 24 MiB.",
            ),
            ErrorCode::BodyTooLarge => (
                "The body of the request is longer than this endpoint reads. The detail has the limit.",
                "Send less at once, or in several requests.",
            ),
            ErrorCode::BatchTooLarge => (
                "The batch has more operations or more bytes than allowed. The detail has the limit.",
                "Send several batches. One atomic batch cannot be larger.",
            ),
            ErrorCode::UriTooLong => ("The path and its query are longer than 8 KiB.", "Send parameters in a body."),
            ErrorCode::UnsupportedMediaType => {
                ("The Content-Type means nothing here.", "The detail names what is read here.")
            }
            ErrorCode::NotOwner => (
                "This server does not answer for the folder of the name, or only keeps a copy of it. Nothing was done, so \
                 the request may be sent elsewhere whatever its method.",
                "Compare the client map with GET /v1/folders of this server; owner says who answers, where that is known.",
            ),
            ErrorCode::FolderFenced => (
                "The folder is being moved to another server, and takes no writes for a moment.",
                "Send the request again, to the owner that the answer names.",
            ),
            ErrorCode::FolderMoved => (
                "The folder lives on another server now.",
                "Send the request there, and bring the client map up to date.",
            ),
            ErrorCode::FolderImporting => (
                "The folder is on its way to this server, which begins to serve it when its source has let go of it.",
                "Send the request to the owner that the answer names, or here again in a moment.",
            ),
            ErrorCode::FolderSealed => (
                "The folder is about to move to another server, or to return to its owner. Its last files are being copied, \
                 and it takes no writes meanwhile; reads go on.",
                "Send the write again after Retry-After. A seal that nobody renews ends within a minute.",
            ),
            ErrorCode::FolderReturned => (
                "The owner of the folder has everything that this server wrote in its place.",
                "Send the write to the owner. If that cannot be reached, send it here again with \
                 Hydra-Fallback-For: <owner's id>; tried, and it is taken.",
            ),
            ErrorCode::FolderStateMismatch => (
                "A step of a move came for a folder that is in another state than the step begins with.",
                "Look at GET /v1/folders of the server, and run hydra-router move again: it goes on where the move is.",
            ),
            ErrorCode::EpochMismatch => (
                "A step of a move came with an epoch that is not younger than what the folder has seen.",
                "Take the newest client map, and finish or give up the move that is under way.",
            ),
            ErrorCode::TakeoverUnsettled => (
                "This server wrote in place of the folder's owner, and the owner does not hold all of that yet.",
                "Copy its files to the owner with hydra-router sync --settle, then move the folder.",
            ),
            ErrorCode::SealMismatch => (
                "The folder is not held by the seal that came: it ran out, was given back, or another one took its place.",
                "Seal the folder again, ask for its manifest and copy what it names.",
            ),
            ErrorCode::ManifestMismatch => (
                "The files of the folder are not those of the manifest, in name, length or content.",
                "Ask the source for its manifest, copy the files that the detail names, and verify again.",
            ),
            ErrorCode::FolderNotReady => (
                "The folder cannot be served here yet, because not every file of its source was verified.",
                "Pull the folder with the seal of its source, commit there, and activate it then.",
            ),
            ErrorCode::MoveTokenMismatch => (
                "The token is not the one that the source of the folder gave away when it let go of it.",
                "Take the token from the answer to commit, or from Hydra-Moved-To of the source.",
            ),
            ErrorCode::NotANumber => (
                "An increment met a value that is no integer.",
                "Store an integer under the key first, or use another key.",
            ),
            ErrorCode::OutOfBounds => {
                ("The sum would leave the range of a signed 64-bit integer.", "Use a smaller step, or more keys.")
            }
            ErrorCode::IdempotencyReuse => (
                "The Idempotency-Key was used for another request.",
                "Make a new key for every operation, and repeat a key only with the very same request.",
            ),
            ErrorCode::VersionRequired => (
                "The policy of the swamp (requireVersion) takes no write without a version.",
                "Read the treasure and send If-Match with its ETag, or If-None-Match: * for a new one.",
            ),
            ErrorCode::Overloaded => (
                "The server has more to do, or more request bodies in memory, than it may.",
                "Wait for Retry-After and send the request again.",
            ),
            ErrorCode::InvalidFilter => (
                "A condition of a list cannot be read. The detail names the place in it.",
                "Compare it with the operators == != < <= > >= in contains starts exists, and with and, or and not.",
            ),
            ErrorCode::PathNotFound => (
                "The treasure is there, but its value has nothing at this place, or has no places at all.",
                "Read the whole value and compare it with the path, a JSON Pointer such as /stats/views.",
            ),
            ErrorCode::PatchFailed => (
                "A step of the patch cannot be done on this value: a place that is missing, or a test that does not \
                 hold. Nothing was changed.",
                "Read the value again, and make the patch from what it is now.",
            ),
            ErrorCode::TooManyStreams => (
                "As many feeds are open on this server as its limit allows.",
                "Close feeds that nobody reads, follow several swamps with one feed of /v1/events, or wait for \
                 Retry-After.",
            ),
            ErrorCode::HeadersTooLarge => {
                ("The headers of the request are longer than 32 KiB.", "Send fewer or shorter headers.")
            }
            ErrorCode::Internal => (
                "The server has a defect; its log has more under the same request id.",
                "Report it with the request id. Before asking again, look whether the write was done.",
            ),
            ErrorCode::Io => (
                "An operation of the disk failed.",
                "Whoever runs the server finds the file and the reason in its log; `hydra-server doctor` looks further.",
            ),
            ErrorCode::ServerUnreachable => (
                "A router, or a proxy, could not reach any server for the folder. attempts lists every try.",
                "Wait and send it again, with the same Idempotency-Key.",
            ),
            ErrorCode::CorruptSwamp => (
                "The key was not found, and a damaged file of the swamp may hold it. Absence would be a guess.",
                "Ask another copy. Whoever runs the server mends the swamp with `hydra-server repair`.",
            ),
            ErrorCode::IncompleteCopy => (
                "The key was not found, and a file that has not been copied here yet may hold it.",
                "Ask the primary, or wait until the copy has caught up.",
            ),
            ErrorCode::SwampReadOnly => (
                "The disk refused writes of this swamp. It is tried again every 5 seconds; reads go on.",
                "Wait and send the write again, with the same Idempotency-Key.",
            ),
            ErrorCode::Busy => {
                ("Memory or open files are short for the moment.", "Wait for Retry-After and send the request again.")
            }
            ErrorCode::Draining => (
                "The server is shutting down, or an operator set it aside.",
                "Send the request to a fallback, or again when the server is back.",
            ),
            ErrorCode::Starting => ("The server is not ready yet.", "Wait and send the request again."),
            ErrorCode::ServerTimeout => (
                "No server answered within the deadline.",
                "Send it again, with the same Idempotency-Key, or with a longer deadline.",
            ),
            ErrorCode::DiskFull => (
                "The disk of the server is nearly full. Writes that need room are refused; reads and deletes go on.",
                "Make room on the disk, or delete what is not needed.",
            ),
            ErrorCode::DataDirInUse => {
                ("Another process has the data directory open.", "End that process, or use another directory.")
            }
            ErrorCode::Unknown => (
                "A newer server answered with a code that this version does not know.",
                "Go by the status and by Hydra-Applied, and bring the client up to date.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_sentences() {
        for code in ErrorCode::ALL {
            for text in [code.meaning(), code.advice(), code.applied_in_words()] {
                assert!(text.len() > 20 && text.ends_with('.') && !text.contains("  "), "{code}: {text}");
            }
        }
    }
}
