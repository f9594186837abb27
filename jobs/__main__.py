"""The commands of this project.

  python -m jobs.imagenet     classify a data set: accuracy, a row for each image, a report
  python -m jobs.report       make a run's report again, or compare two runs
  python -m jobs.synthetic    drive every mesh with random images: what the devices do alone
  python -m jobs.scaling      run the same work on 1, 2, 4, ... meshes: efficiency, and what limits it
  python -m cluster.submit    run one of these on a Ray cluster, and follow its log
  python -m cluster.preflight say what a host or a cluster lacks, each with its fix

Each has --help. To begin with:

  python -m jobs.imagenet --data jobs/sample/images --model jobs/sample/model --out out/sample
  python -m jobs.imagenet --data photos --out out/photos --resume
  python -m jobs.report --compare out/run-1 out/run-2
"""

from argparse import RawDescriptionHelpFormatter

from jobs.running.command import Parser, run


def main(arguments: list[str] | None = None) -> int:
    parser = Parser("jobs", None, "[--help] [--version]")
    parser.description, parser.formatter_class = __doc__, RawDescriptionHelpFormatter
    parser.parsed(arguments)
    parser.print_help()
    return 0


if __name__ == "__main__":
    run(main)
