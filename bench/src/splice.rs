//! The least that anything between clients and functions can cost: a thread that passes bytes on between sockets and reads nothing of
//! them. What it reaches beside Deno's own listener is what a gateway without any work of its own would reach on this machine.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use nix::unistd::{Pid, gettid};

/// The most that is read at a time; what is measured is far smaller.
const READ_BYTES: usize = 64 << 10;
const EVENTS_MAX: usize = 256;
const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
const FIRST_PAIR: usize = 2;

/// A thread that passes bytes on from a port to a unix socket.
pub struct Splice {
    /// `127.0.0.1:port`.
    pub address: String,
    /// Its thread's number.
    pub thread: Pid,
    stop: Arc<Waker>,
    passing: JoinHandle<io::Result<()>>,
}

impl Splice {
    /// Begins; there is one connection to the socket for each that comes in.
    pub fn to(socket: &Path) -> Result<Self> {
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?.to_string();
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let stop = Arc::new(Waker::new(poll.registry(), STOP)?);
        let (told, thread) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        let passing = std::thread::Builder::new().name("splice".into()).spawn(move || {
            // nobody asks any more when the program is stopping
            let _ = told.send(gettid());
            let pairs = Pairs {
                poll,
                listener,
                socket,
                open: HashMap::new(),
                next: FIRST_PAIR,
            };
            pairs.pass_on()
        })?;
        Ok(Self {
            address,
            thread: thread.recv().context("the splice ended at once")?,
            stop,
            passing,
        })
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.stop.wake()?;
        let passed = self.passing.join().map_err(|_| anyhow!("the splice panicked"))?;
        passed.context("pass bytes on")
    }
}

/// A client's connection and that to the socket; the first has an even number, the other the next one.
struct Pairs {
    poll: Poll,
    listener: TcpListener,
    socket: PathBuf,
    open: HashMap<usize, (TcpStream, UnixStream)>,
    next: usize,
}

impl Pairs {
    fn pass_on(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; READ_BYTES];
        // All that has come is read before anything is written: those who are woken by it find more to do.
        let mut come: Vec<(usize, Vec<u8>)> = Vec::new();
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    STOP => return Ok(()),
                    LISTENER => self.accept()?,
                    Token(number) => match self.read(number, &mut buffer) {
                        Ok(0) => self.close(number),
                        Ok(count) => come.push((number, buffer[..count].to_vec())),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => self.close(number),
                    },
                }
            }
            for (number, bytes) in come.drain(..) {
                if self.write(number, &bytes).is_err() {
                    self.close(number);
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let (mut client, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            client.set_nodelay(true)?;
            let mut function = UnixStream::connect(&self.socket)?;
            let number = self.next;
            self.next += 2;
            let registry = self.poll.registry();
            registry.register(&mut client, Token(number), Interest::READABLE)?;
            registry.register(&mut function, Token(number + 1), Interest::READABLE)?;
            self.open.insert(number, (client, function));
        }
    }

    /// Heads and answers of what is measured come in one piece; after a full buffer more would have to be read at once.
    fn read(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let (client, function) = self.pair(number)?;
        let count = match number % 2 {
            0 => client.read(buffer)?,
            _ => function.read(buffer)?,
        };
        match count < buffer.len() {
            true => Ok(count),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn write(&mut self, from: usize, bytes: &[u8]) -> io::Result<()> {
        let (client, function) = self.pair(from)?;
        match from % 2 {
            0 => function.write_all(bytes),
            _ => client.write_all(bytes),
        }
    }

    fn pair(&mut self, number: usize) -> io::Result<&mut (TcpStream, UnixStream)> {
        let pair = self.open.get_mut(&(number - number % 2));
        pair.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn close(&mut self, number: usize) {
        self.open.remove(&(number - number % 2));
    }
}
