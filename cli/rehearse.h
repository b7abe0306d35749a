// `atoll rehearse JOB.yaml --lab FILE`: the whole job on this host, its regions joined by the
// emulated links of a lab.
//
// 1. Bring the lab up (tools/wanlab/lab.h); it goes down however this process ends.
// 2. Train as `atoll train` does (cli/train.h), each region's mpirun in its namespace. The lab's
//    regions are the job's. The orchestrator is in the first region's: a job has it at one of its
//    sites, and what it says to the others crosses the sea.
// 3. Tell what the links carried, and take the lab down.
#pragma once

#include "cli/train_setup.h"
#include "cli/verb.h"
#include "tools/wanlab/lab.h"

namespace atl {

Verb RehearseVerb();

// Processes of a region enter the lab's namespace of that name.
StatusOr<Stage> StageOf(const RunningLab& lab);

}  // namespace atl
