"""What the processes of tests.commands are forked from has this imported: packages that most commands load, and the page's."""

import jobs.reporting.page.page  # noqa: F401
from jobs.running.session import set_environment
from jobs.running.workers.server import load

set_environment()
load()
