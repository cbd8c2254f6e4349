"""The card beside a trained policy says what it was made from, by whom it was judged, and what came of it."""

from huggingface_hub import ModelCard

from trainer.model_card import write_model_card


def test_a_card_names_base_method_judges_settings_and_figures(build_trainer, rows, tmp_path):
    trainer = build_trainer({"max_steps": 1}, eval_dataset=rows[:2])
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    write_model_card(tmp_path, "org/tiny", trainer, before, after)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "org/tiny"
    assert card.data.tags == ["cgpo", "rlhf"]
    for line in (
        "# tiny, trained by CGPO",
        "`tiny` after 1 steps",
        "| default | crpg | 4 | 50.0 | HasNoA |",
        "| reward model | LlamaForSequenceClassification ",
        "| learning_rate | 0.01 |",
        "On held-out prompts, 2 completions.",
        "| satisfied | {:.1%} | {:.1%} |".format(*(one["eval_constraint/satisfied_rate"] for one in (before, after))),
        "| mean score | {:.3f} | {:.3f} |".format(*(one["eval_score/mean"] for one in (before, after))),
    ):
        assert line in card.text, line


def test_a_folder_is_no_base_model_that_others_could_load_and_a_run_without_evaluation_has_no_figures(
    build_trainer, tmp_path
):
    trainer = build_trainer({"max_steps": 1})
    trainer.train()
    write_model_card(tmp_path, "/somewhere/private/tiny", trainer, {}, {})
    text = (tmp_path / "README.md").read_text()
    assert "# tiny, trained by CGPO" in text
    assert "private" not in text
    assert "Before and after" not in text
