import { render } from "preact";
import "./style.css";
import { taskId } from "./api";
import { InstancePage } from "./instance";
import { RunPage } from "./run";

const root = document.getElementById("page");
if (root) render(taskId ? <InstancePage /> : <RunPage />, root);
