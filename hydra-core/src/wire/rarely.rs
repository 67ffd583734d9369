//! A future that is polled when it has something to say, and not whenever its task runs.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Something that a connection waits for beside its requests: the end of the server, a peer that took too long.
///
/// A connection runs with every request. What it waits for beside them is asked only after it has called: asked every
/// time, its lock would be one that all connections meet at. After its end it is silent.
#[derive(Debug)]
pub struct Rarely<F> {
    future: Option<Pin<Box<F>>>,
    call: Arc<Call>,
    waker: Waker,
}

impl<F: Future> Rarely<F> {
    /// Asked for the first time when it is first polled.
    pub fn new(future: F) -> Rarely<F> {
        let call = Arc::new(Call { is_made: AtomicBool::new(true), task: Mutex::new(None) });
        Rarely { future: Some(Box::pin(future)), waker: Arc::clone(&call).into(), call }
    }
}

impl<F: Future> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // In this order: a call that comes meanwhile finds the task.
        self.call.goes_to(context.waker());
        if !self.call.is_made.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let Rarely { future, waker, .. } = &mut *self;
        let Some(asked) = future else { return Poll::Pending };
        let answer = asked.as_mut().poll(&mut Context::from_waker(waker));
        if answer.is_ready() {
            *future = None;
        }
        answer
    }
}

/// How the future calls for its task.
#[derive(Debug)]
struct Call {
    is_made: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Call {
    fn goes_to(&self, task: &Waker) {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.is_made.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_asked_when_it_has_called_by_the_task_that_asked_last_and_never_after_its_end() {
        let (sender, asked) = std::sync::mpsc::channel();
        let mut left = 2;
        let mut rarely = Rarely::new(std::future::poll_fn(move |context| {
            sender.send(context.waker().clone()).expect("heard");
            left -= 1;
            if left == 0 { Poll::Ready("the end") } else { Poll::Pending }
        }));
        let tasks = [(); 2].map(|()| Arc::new(Counted(AtomicUsize::new(0))));
        let mut poll_by = |task: &Arc<Counted>| {
            let waker = Waker::from(Arc::clone(task));
            Pin::new(&mut rarely).poll(&mut Context::from_waker(&waker))
        };
        for task in [0, 0, 0, 1] {
            assert_eq!(poll_by(&tasks[task]), Poll::Pending);
        }
        let caller = asked.try_recv().expect("asked at first");
        assert!(asked.try_recv().is_err(), "and once, since it has not called");
        caller.wake();
        assert_eq!(tasks.each_ref().map(|task| task.0.load(Ordering::Relaxed)), [0, 1]);
        assert_eq!(poll_by(&tasks[1]), Poll::Ready("the end"));
        asked.try_recv().expect("asked again").wake();
        assert_eq!(poll_by(&tasks[1]), Poll::Pending, "silent after its end");
    }
}
