"""s3_test.py PROGRAM: runs the tests of checkpoints in object stores against s3_server.py."""

import os
import subprocess
import sys

import s3_server

environment = dict(os.environ, AWS_ACCESS_KEY_ID=s3_server.ACCESS,
                   AWS_SECRET_ACCESS_KEY=s3_server.SECRET, AWS_REGION=s3_server.REGION,
                   AWS_ENDPOINT_URL_S3=s3_server.start(), ATOLL_S3_FULL="1")
sys.exit(subprocess.run(sys.argv[1:], env=environment, check=False).returncode)
