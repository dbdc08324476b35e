//! What the gate and a client say to each other while it is judged: challenges and proofs of enhanced
//! authentication. The gate's end and the driver's end; knows no method.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Authentication Data, if there is any.
pub(crate) type Data = Option<Bytes>;

/// The gate's end.
#[derive(Debug)]
pub struct Dialogue {
    first: Data,
    challenges: mpsc::Sender<Data>,
    proofs: mpsc::Receiver<Data>,
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Interpreter {
    pub(crate) challenges: mpsc::Receiver<Data>,
    proofs: mpsc::Sender<Data>,
}

impl Dialogue {
    /// `first` is what the client began with.
    pub(crate) fn new(first: Data) -> (Self, Interpreter) {
        let (challenges, to_client) = mpsc::channel(1);
        let (to_gate, proofs) = mpsc::channel(1);
        (Self { first, challenges, proofs }, Interpreter { challenges: to_client, proofs: to_gate })
    }

    pub(crate) fn first(&self) -> Data {
        self.first.clone()
    }

    /// Sends a challenge and waits for what the client answers; `None` if it has gone.
    pub(crate) async fn ask(&mut self, challenge: Option<Vec<u8>>) -> Option<Data> {
        self.challenges.send(challenge.map(Bytes::from)).await.ok()?;
        self.proofs.recv().await
    }
}

impl Interpreter {
    /// What the client answered. One question is open at a time, so there is room.
    pub(crate) fn tell(&self, proof: Data) {
        let _ = self.proofs.try_send(proof);
    }
}
