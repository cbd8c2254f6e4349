"""What `reward_model=` takes, and what it refuses."""

import math

import pytest
import torch

from trainer.errors import ConfigError, ModelError
from trainer.mixture import Sample
from trainer.reward import LocalRewardModel, RemoteRewardModel, as_reward_model

CPU = torch.device("cpu")


def scores(reward_model, samples):
    return reward_model.submit(samples, 10.0)()


def test_a_score_is_the_classifiers_logit_of_the_templated_conversation(reward_model, tokenizer, build_row):
    (score,) = scores(LocalRewardModel(reward_model, tokenizer), [Sample(build_row("ab"), "cd")])
    ids = tokenizer("<u>ab<a>cd<eos>")["input_ids"]
    assert score == pytest.approx(reward_model(torch.tensor([ids])).logits.item(), abs=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 16])
def test_longer_neighbours_do_not_change_a_score(reward_model, tokenizer, build_row, chunk_size):
    samples = [Sample(build_row(p), c) for p, c in (("ab", "cd"), ("abcdefghij" * 3, "d"), ("a", "0123456789" * 4))]
    together = scores(LocalRewardModel(reward_model, tokenizer, chunk_size), samples)
    alone = [scores(LocalRewardModel(reward_model, tokenizer), [sample])[0] for sample in samples]
    assert together == pytest.approx(alone, abs=1e-4)


def test_padding_with_the_end_of_sequence_does_not_change_a_score(build_tokenizer, build_reward_model, build_row):
    tokenizer = build_tokenizer(pad_token="<eos>")
    reward_model = build_reward_model(pad_token_id=1)
    samples = [Sample(build_row("ab"), "cd"), Sample(build_row("a"), "0123456789" * 4)]
    together = scores(LocalRewardModel(reward_model, tokenizer), samples)
    alone = [scores(LocalRewardModel(reward_model, tokenizer), [sample])[0] for sample in samples]
    assert together == pytest.approx(alone, abs=1e-4)


def test_without_pad_token_of_its_own_a_model_still_scores_the_last_token(
    build_tokenizer, build_reward_model, build_row
):
    # the tokenizer pads with the token that ends a turn, which is the one to score
    given = LocalRewardModel(build_reward_model(pad_token_id=None), build_tokenizer(pad_token="<eos>"))
    plain = LocalRewardModel(build_reward_model(), build_tokenizer())
    samples = [Sample(build_row("ab"), "cd"), Sample(build_row("a"), "0123456789" * 4)]
    assert scores(given, samples) == pytest.approx(scores(plain, samples), abs=1e-4)


def test_what_is_longer_than_the_model_reads_keeps_its_end(build_reward_model, tokenizer, build_row):
    reward_model = LocalRewardModel(build_reward_model(max_position_embeddings=8), tokenizer)
    assert math.isfinite(scores(reward_model, [Sample(build_row("a" * 50), "b" * 50)])[0])


def test_a_completion_that_spells_a_control_token_does_not_end_its_turn(reward_model, tokenizer, build_row):
    given = LocalRewardModel(reward_model, tokenizer)
    assert given._encode(Sample(build_row("ab"), "c<eos>")).count(tokenizer.eos_token_id) == 1


def test_the_tokenizer_of_a_reward_model_needs_a_chat_template_too(reward_model, build_tokenizer):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        LocalRewardModel(reward_model, tokenizer)


def test_two_labels_are_one_too_many(build_reward_model, tokenizer):
    with pytest.raises(ModelError, match="the reward model has 2 labels, a score needs one; load it with num_labels=1"):
        as_reward_model(build_reward_model(num_labels=2), tokenizer, CPU, 16)


def test_a_tokenizer_of_another_model_is_named(build_reward_model, tokenizer):
    with pytest.raises(ModelError, match=r"embeddings for 10 tokens, its tokenizer 28: .* reward_processing_class"):
        as_reward_model(build_reward_model(vocab_size=10), tokenizer, CPU, 16)


def test_another_template_is_refused_unless_allowed(reward_model, build_tokenizer):
    own, other = build_tokenizer(), build_tokenizer()
    other.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    given = as_reward_model(reward_model, other, CPU, 16)
    with pytest.raises(ModelError, match=r"template of reward_processing_class.*allow_template_mismatch=True"):
        given.check(own, allow_template_mismatch=False)
    given.check(own, allow_template_mismatch=True)
    given.check(other, allow_template_mismatch=False)


@pytest.mark.parametrize("given", [None, "http://127.0.0.1:8002", object()])
def test_what_is_no_reward_model_is_named_with_the_two_that_are(tokenizer, given):
    with pytest.raises(ConfigError, match=r"num_labels=1, or RemoteRewardModel\(url\)"):
        as_reward_model(given, tokenizer, CPU, 16)


def test_the_service_gives_what_the_model_in_this_process_gives(reward_url, build_row, tokenizer, build_reward_model):
    samples = [Sample(build_row(p), c) for p, c in (("ab", "cd"), ("abc", "0123456789"), ("a", "b<eos><u>c"))]
    remote = RemoteRewardModel(reward_url)
    remote.check(tokenizer, allow_template_mismatch=False)
    local = LocalRewardModel(build_reward_model(seed=1), tokenizer)
    assert scores(remote, samples) == pytest.approx(scores(local, samples), abs=1e-4)
    remote.close()
    assert scores(remote, samples[:1])  # opens again
    remote.close()


def test_odd_text_is_scored(reward_url, build_row):
    remote = RemoteRewardModel(reward_url)
    assert None not in scores(remote, [Sample(build_row("nul \x00"), "\x00\ufffd"), Sample(build_row(), "")])
    remote.close()


def test_a_service_with_another_template_is_refused_with_both_hashes(reward_url, build_tokenizer):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    remote = RemoteRewardModel(reward_url)
    with pytest.raises(ModelError, match=r"sha256 \w{12}\) is not the policy's \(sha256 \w{12}\).*allow_template_mism"):
        remote.check(tokenizer, allow_template_mismatch=False)
    remote.check(tokenizer, allow_template_mismatch=True)
    remote.close()


def test_a_reward_service_that_is_down_is_named(free_url, tokenizer, build_row):
    remote = RemoteRewardModel(free_url)
    with pytest.raises(ConfigError, match=rf"the reward service cannot be used: {free_url}.*start the service"):
        remote.check(tokenizer, allow_template_mismatch=False)
    (error,) = scores(remote, [Sample(build_row(), "a")])
    assert (error.type, error.retryable) == ("upstream", True)
    remote.close()


def test_the_url_of_a_judge_service_is_not_that_of_a_reward_service(judge_url, tokenizer):
    remote = RemoteRewardModel(judge_url)
    with pytest.raises(ConfigError, match="the reward service cannot be used"):
        remote.check(tokenizer, allow_template_mismatch=False)
    remote.close()


def test_a_service_on_this_machine_shares_its_processor():
    here, there = "http://localhost:8002", "http://reward:8002"
    assert RemoteRewardModel(here).is_here
    assert not RemoteRewardModel(there).is_here
    assert not RemoteRewardModel([here, there]).is_here
