#include "worker/region/region_worker.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/units.h"
#include "collectives/agreement.h"
#include "proto/model_presets.h"
#include "worker/region/replica.h"

namespace atl {

RegionWorker::RegionWorker(RegionWorkerOptions options, Communicator* control)
    : options_(std::move(options)),
      control_(control),
      phases_(Clock::Real()),
      activity_(Clock::Real(), wan::EngineOptions().patience_seconds),
      saver_(std::make_unique<checkpoint::BackgroundSaver>(
          options_.saves != nullptr ? options_.saves : control_)),
      mending_(options_.region) {}

RegionWorker::~RegionWorker() = default;

pb::PhaseSeconds RegionWorker::phases() const {
  const auto seconds = phases_.Seconds();
  const auto of = [&](Phase phase) { return seconds[static_cast<int>(phase)]; };
  pb::PhaseSeconds message;
  message.set_idle(of(Phase::kIdle));
  message.set_compute(of(Phase::kCompute));
  message.set_encode(of(Phase::kEncode));
  message.set_wan(of(Phase::kWan));
  message.set_wait(of(Phase::kWait));
  message.set_checkpoint(of(Phase::kCheckpoint));
  message.set_restart(of(Phase::kRestart));
  return message;
}

pb::RegionAnswer RegionWorker::Execute(const pb::RegionCommand& command, bool* must_abort) {
  pb::RegionAnswer answer;
  const double start = Clock::Real()->MonotonicSeconds();
  ++executed_;
  const Status status = Run(command, &answer);
  {
    MutexLock lock(&mutex_);
    silent_of_others_.clear();
  }
  if (!status.ok()) {
    const std::string error = absl::StrCat("while ", activity_.what(), ": ", status.message());
    if (answer.interrupted()) {
      LOG(INFO) << error;
    } else {
      LOG(ERROR) << error;
    }
    answer.set_error(error);
    answer.set_exit_code(static_cast<int>(ExitCodeOf(status)));
  }
  *must_abort = !status.ok() && !answer.interrupted() && control_->size() > 1 &&
                (command.has_train() || command.has_commit());
  answer.set_seconds(Clock::Real()->MonotonicSeconds() - start);
  answer.set_stop_requested(options_.stop_requested && options_.stop_requested());
  *answer.mutable_phases() = phases();
  answer.set_prepared_view(joiner_ != nullptr && joiner_->joined() ? prepared_.id() : view_.id());
  // The leader asks its own engine when it needs to know.
  if (control_->rank() > 0 &&
      (command.has_enter_view() || command.has_switch_view() || command.has_reduce())) {
    for (pb::WanLink& link : OwnLinks()) *answer.add_links() = std::move(link);
  }
  return answer;
}

Status RegionWorker::Run(const pb::RegionCommand& command, pb::RegionAnswer* answer) {
  switch (command.body_case()) {
    case pb::RegionCommand::kSetUp:
      return SetUp(command.set_up(), answer);
    case pb::RegionCommand::kEnterView:
      return EnterView(command.enter_view().view(), answer);
    case pb::RegionCommand::kPrepareView:
      MakeRoom(command.prepare_view().view());
      return PrepareView(command.prepare_view().view());
    case pb::RegionCommand::kSwitchView:
      return SwitchView(command.switch_view(), answer);
    case pb::RegionCommand::kTrain:
      return Train(command.train(), answer);
    case pb::RegionCommand::kReduce:
      return Reduce(command.reduce(), answer);
    case pb::RegionCommand::kCommit:
      return Commit(command.commit(), answer);
    case pb::RegionCommand::kEvaluate:
      Doing(absl::StrCat("evaluation after round ", command.evaluate().round()));
      return Evaluate(answer);
    case pb::RegionCommand::kSave:
      return Save(command.save(), answer);
    case pb::RegionCommand::kFinish:
      Doing("waiting for the checkpoints that are being written");
      saver_->Wait();
      if (pushing_ == nullptr) break;
      // Whoever leaves has no time to lose; a job that stops has pushed its last one (Save).
      if (command.finish().exit_code() == static_cast<int>(ExitCode::kStoppedCleanly)) {
        pushing_->Stop();
      } else {
        pushing_->Finish();
      }
      break;
    case pb::RegionCommand::BODY_NOT_SET:
      break;
  }
  return OkStatus();
}

void RegionWorker::Observe(const std::vector<pb::RegionAnswer>& answers) {
  MutexLock lock(&mutex_);
  for (size_t rank = 0; rank < answers.size(); ++rank) {
    const auto& links = answers[rank].links();
    if (!links.empty()) links_of_others_[static_cast<int>(rank)].assign(links.begin(), links.end());
  }
}

std::vector<std::string> RegionWorker::OtherRegions(const pb::View& view) const {
  std::vector<std::string> names;
  for (const pb::Member& member : view.members()) {
    if (member.region() != options_.region) names.push_back(member.region());
  }
  return names;
}

Status RegionWorker::SetUp(const pb::SetUp& command, pb::RegionAnswer* answer) {
  job_ = command.job();
  if (const std::string& place = job_.checkpoint().push_to(); !place.empty()) {
    RETURN_IF_ERROR(Annotate(CheckPlace(place), "checkpoint.push_to"));
    if (control_->rank() == 0) pushing_ = std::make_unique<Pushing>(place, PushToPlace(place));
  }
  RETURN_IF_ERROR(AgreeOnSuccess(*control_, OpenDataAndTrainer()));
  RETURN_IF_ERROR(ShareVectors());
  RETURN_IF_ERROR(OpenGateway(answer));
  answer->set_parameters(trainer_->parameter_count());
  answer->set_dataset_samples(dataset_->training_samples());
  answer->set_dataset_fingerprint(dataset_->fingerprint());
  answer->set_accelerator(device_ < 0 ? "cpu" : absl::StrCat("cuda:", device_));
  answer->set_trainer(trainer_->version());
  const auto look_on_disk = [&]() -> Status {
    RETURN_IF_ERROR(ListCheckpoints(answer));
    return GiveCheckpoints();
  };
  RETURN_IF_ERROR(AgreeOnSuccess(*control_, control_->rank() == 0 ? look_on_disk() : OkStatus()));
  LOG(INFO) << "trainer " << trainer_->version() << " on " << answer->accelerator() << ", "
            << trainer_->parameter_count() << " parameters, " << dataset_->training_samples()
            << " samples an epoch, gateway " << answer->gateway();
  return OkStatus();
}

// What a worker may fail at on its own.
Status RegionWorker::OpenDataAndTrainer() {
  Doing("opening the data");
  pb::Data data = job_.data();
  if (!options_.data_tokens.empty()) data.set_tokens(options_.data_tokens);
  ASSIGN_OR_RETURN(dataset_, Dataset::Open(data, job_.seed()));
  ASSIGN_OR_RETURN(model_, ResolveModel(job_.model(), dataset_->vocab_size()));
  RETURN_IF_ERROR(TakeKey());
  RETURN_IF_ERROR(MakeTrainer());
  mending_.SetElements(trainer_->size());
  return OkStatus();
}

// Of encrypted checkpoints.
Status RegionWorker::TakeKey() {
  using checkpoint::EncryptionKey;
  const std::string& file = options_.encryption_key;
  if (file.empty() && options_.encryption_key_command.empty()) return OkStatus();
  Doing("taking the key of the checkpoints");
  auto key = file.empty() ? EncryptionKey::FromCommand(options_.encryption_key_command)
                          : EncryptionKey::FromFile(file);
  RETURN_IF_ERROR(key.status());
  key_ = *std::move(key);
  mending_.SetKey(key_);
  LOG(INFO) << "checkpoints are encrypted with the key " << key_->id();
  return OkStatus();
}

// The region's sums are of gradients, its gathers of parameters: they lie where all workers of the
// host see them, if there is such memory. Together: no worker fails here before the last Allocate.
Status RegionWorker::ShareVectors() {
  if (control_->size() == 1) return OkStatus();
  ASSIGN_OR_RETURN(const auto answers,
                   control_->AllGatherBytes(trainer_->placeable() ? "placeable" : ""));
  for (const std::string& answer : answers) {
    if (answer.empty()) return OkStatus();
  }
  ASSIGN_OR_RETURN(Buffer parameters, control_->Allocate(trainer_->size()));
  if (!parameters.shared()) return OkStatus();
  ASSIGN_OR_RETURN(Buffer gradients, control_->Allocate(trainer_->size()));
  RETURN_IF_ERROR(trainer_->Place(Vector::kParameters, parameters.data()));
  parameters_ = std::move(parameters);
  if (!gradients.shared()) return OkStatus();
  RETURN_IF_ERROR(trainer_->Place(Vector::kGradients, gradients.data()));
  gradients_ = std::move(gradients);
  LOG(INFO) << "parameters and gradients lie in memory that the region's workers share";
  return OkStatus();
}

Status RegionWorker::MakeTrainer() {
  Doing("loading the trainer");
  TrainerOptions options;
  options.model = model_;
  options.activation_checkpointing = job_.train().activation_checkpointing();
  options.precision = job_.train().precision();
  options.threads = static_cast<int>(job_.train().threads());
  options.module_path = options_.trainer_module;
  if (job_.train().device() != pb::Train::CPU) {
    options.device = options_.local_rank;
    auto trainer = Trainer::Create(options);
    if (trainer.ok()) {
      device_ = options.device;
      trainer_ = *std::move(trainer);
      return OkStatus();
    }
    if (job_.train().device() == pb::Train::CUDA) return trainer.status();
    VLOG(1) << "no GPU for the trainer: " << trainer.status().message();
  }
  options.device = device_ = -1;
  ASSIGN_OR_RETURN(trainer_, Trainer::Create(options));
  return OkStatus();
}

namespace {

wan::ScheduleKind ScheduleOf(pb::Sync::Schedule schedule) {
  switch (schedule) {
    case pb::Sync::EQUAL:
      return wan::ScheduleKind::kEqual;
    case pb::Sync::DIRECT:
      return wan::ScheduleKind::kDirect;
    case pb::Sync::RING:
      return wan::ScheduleKind::kRing;
    case pb::Sync::TREES:
      return wan::ScheduleKind::kTrees;
    default:
      return wan::ScheduleKind::kAuto;
  }
}

}  // namespace

Status RegionWorker::OpenGateway(pb::RegionAnswer* answer) {
  Doing("opening the data-plane port");
  wan::EngineOptions options;
  options.listen = options_.wan_listen;
  options.only_calls_out = options_.wan_only_calls_out;
  if (options.listen.host.empty() && !options.only_calls_out) {
    ASSIGN_OR_RETURN(options.listen.host, LocalHostTowards(options_.orchestrator));
  }
  options.streams = static_cast<int>(job_.sync().streams());
  options.chunk_bytes = job_.sync().chunk_bytes();
  options.schedule = ScheduleOf(job_.sync().schedule());
  options.order_stable = job_.sync().reproducible();
  options.on_silence = [this](const wan::Silence& silence) { activity_.OnSilence(silence); };
  ASSIGN_OR_RETURN(wan_, wan::Engine::Create(options));
  engine_.store(wan_.get());
  Endpoint gateway = wan_->endpoint();
  if (!options_.wan_advertise.empty()) {
    gateway.host = options_.wan_advertise;
  } else if (gateway.host == "0.0.0.0" || gateway.host == "::") {
    ASSIGN_OR_RETURN(gateway.host, LocalHostTowards(options_.orchestrator));
  }
  answer->set_gateway(gateway.ToString());
  return OkStatus();
}

// Where the job file says so. What stands in the way later ends nothing.
Status RegionWorker::GiveCheckpoints() {
  const pb::CheckpointServe& serve = job_.checkpoint().serve();
  std::string listen = serve.listen();
  for (const pb::Region& region : job_.regions()) {
    if (region.name() == options_.region && !region.serve().empty()) listen = region.serve();
  }
  giver_.reset();
  if (listen.empty() || listen == "none") return OkStatus();
  CheckpointGiver::Options options;
  options.directory = CheckpointDirectory(options_.region);
  ASSIGN_OR_RETURN(options.listen, Endpoint::Parse(listen));
  options.key_file = serve.key_file();
  options.rate_cap = static_cast<double>(serve.rate_cap()) / 8;
  options.busy = [this] { return phases_.present() == Phase::kWan; };
  giver_ = std::make_unique<CheckpointGiver>(std::move(options));
  return OkStatus();
}

}  // namespace atl
